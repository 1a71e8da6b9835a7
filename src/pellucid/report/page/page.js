"use strict";
/* The page: one epoch is chosen, every section shows it.

A section's script registers a function under its kind:

    pellucid.kinds.NAME = (root, data, page) => (epoch) => { … };

root: the section's element. data: its JSON. page: see `start`.
What it returns is called with every epoch that is chosen, first at the start.
*/
const pellucid = { kinds: {} };

const STEP_MS = 1100;

/* An element with attributes and children; texts stay texts. */
pellucid.element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

/* The same in SVG. */
pellucid.drawn = (tag, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

/* The last of the epochs (keys of an object) that is not after the chosen one, or else the first; as a string. */
pellucid.latest = (byEpoch, epoch) => {
  const numbers = Object.keys(byEpoch).map(Number).sort((a, b) => a - b);
  return String(numbers.filter((number) => number <= epoch).pop() ?? numbers[0]);
};

/* What is to be said where another epoch than the chosen one is shown. */
pellucid.stale = (shown, epoch) =>
  Number(shown) === epoch ? "" : `There is nothing of epoch ${epoch} here; shown is epoch ${shown}.`;

/* A picture that is there when it is needed, so that one epoch follows another without a gap. */
pellucid.picture = (uri) => {
  const made = new Image();
  made.decoding = "sync";
  made.src = uri;
  return made;
};

/* One of the square tiles of a picture that holds many, `across` to a row; drawn when the picture is there. */
pellucid.tile = (sheet, number, side, across, label) => {
  const canvas = pellucid.element("canvas", { class: "tile pixels", width: side, height: side, role: "img", "aria-label": label });
  const draw = () => canvas.getContext("2d").drawImage(
    sheet, (number % across) * side, Math.floor(number / across) * side, side, side, 0, 0, side, side);
  if (sheet.complete && sheet.naturalWidth) draw();
  else sheet.addEventListener("load", draw, { once: true });
  return canvas;
};

/* A picture as large as it is, above the page. */
pellucid.showFull = (title, uri, alt) => {
  const dialog = document.getElementById("full");
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector(".wide").replaceChildren(pellucid.element("img", { src: uri, alt }));
  dialog.querySelector("button").onclick = () => dialog.close();
  dialog.showModal();
};

/* The address keeps the place and the epoch, as in #saliency&epoch=3. */
pellucid.address = {
  part: (name) => new URLSearchParams(location.hash.slice(1)).get(name),
  place: () => location.hash.slice(1).split("&").find((part) => part && !part.startsWith("epoch=")) ?? "",
  keep: (epoch) => {
    const parts = [pellucid.address.place(), `epoch=${epoch}`].filter(Boolean);
    history.replaceState(null, "", `#${parts.join("&")}`);
  },
};

/* One section; where its data are not as they should be, it says so, and the others go on. */
pellucid.guarded = (root, work) => (...given) => {
  try {
    return work(...given);
  } catch (error) {
    root.querySelector(".body").replaceChildren(
      pellucid.element("p", { class: "notice" }, `This part cannot be drawn: ${error.message}`));
    return undefined;
  }
};

/* The slider and its button; `show` is called with the chosen epoch. */
pellucid.slider = (epochs, show) => {
  const slider = document.getElementById("epoch");
  const play = document.getElementById("play");
  let timer = null;
  const at = () => Number(slider.value);
  const choose = (position) => {
    const epoch = epochs[position];
    slider.value = position;
    slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
    document.getElementById("epoch-shown").textContent = `epoch ${epoch}`;
    show(epoch);
  };
  const stop = () => {
    if (timer === null) return;
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    pellucid.address.keep(epochs[at()]);
  };
  slider.addEventListener("input", () => { stop(); choose(at()); });
  slider.addEventListener("change", () => pellucid.address.keep(epochs[at()]));
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    play.textContent = "Pause";
    if (at() === epochs.length - 1) choose(0);
    timer = setInterval(() => {
      choose(at() + 1);
      if (at() === epochs.length - 1) stop();
    }, STEP_MS);
  });
  return (epoch) => { stop(); choose(epochs.indexOf(epoch)); pellucid.address.keep(epoch); };
};

pellucid.start = () => {
  const { epochs, classes, sections } = JSON.parse(document.getElementById("data").textContent);
  const page = { epochs, classes, ...pellucid };
  const shown = [];
  const show = (epoch) => {
    document.documentElement.dataset.epoch = epoch;
    for (const one of shown) one(epoch);
  };
  const choose = epochs.length > 1 ? pellucid.slider(epochs, show) : show;
  page.choose = (epoch) => { // of a long run not every epoch has pictures: the nearest one that has
    const distance = (one) => Math.abs(one - epoch);
    if (epochs.length) choose(epochs.reduce((best, one) => (distance(one) < distance(best) ? one : best)));
  };
  for (const [name, { kind, data }] of Object.entries(sections)) {
    const root = document.getElementById(name);
    const update = pellucid.guarded(root, pellucid.kinds[kind])(root, data, page);
    if (update) shown.push(pellucid.guarded(root, update));
  }
  const kept = Number(pellucid.address.part("epoch") ?? NaN);
  const place = pellucid.address.place();
  if (epochs.length) choose(epochs.includes(kept) ? kept : epochs[epochs.length - 1]);
  if (place) document.getElementById(place)?.scrollIntoView({ behavior: "instant" });
  addEventListener("hashchange", () => {
    if (epochs.length) pellucid.address.keep(Number(document.documentElement.dataset.epoch));
  });
};
