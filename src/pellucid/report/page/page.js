"use strict";
/* The page: all sections show the selected epoch.

The script of a section registers a function under its kind:

    pellucid.kinds.NAME = (root, data, page) => (epoch) => { … };

root: the section's element. data: its JSON. page: see `start`.
The function it returns is called with the initial epoch and whenever another one is selected.
*/
const pellucid = { kinds: {} };

const STEP_MS = 1100; // time per epoch while playing
const AGE_MS = 10000; // time between updates of the page's age

/* Create an element with attributes and children; strings become text nodes and are never parsed as HTML. */
pellucid.element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

/* Create an SVG element. */
pellucid.drawn = (tag, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

/* Return the latest epoch (a key of an object) up to the selected one, or else the first, as a string. */
pellucid.latest = (byEpoch, epoch) => {
  const numbers = Object.keys(byEpoch).map(Number).sort((a, b) => a - b);
  return String(numbers.filter((number) => number <= epoch).pop() ?? numbers[0]);
};

/* Return a notice if another epoch than the selected one is shown. */
pellucid.stale = (shown, epoch) =>
  Number(shown) === epoch ? "" : `No data for epoch ${epoch}; showing epoch ${shown}.`;

/* Load a picture ahead of time and decode it synchronously, so that epochs follow each other without flicker. */
pellucid.picture = (uri) => {
  const made = new Image();
  made.decoding = "sync";
  made.src = uri;
  return made;
};

/* Create a canvas with one square tile of a sprite image with `across` tiles per row; drawn once the image is loaded. */
pellucid.tile = (sheet, number, side, across, label) => {
  const canvas = pellucid.element("canvas", { class: "tile pixels", width: side, height: side, role: "img", "aria-label": label });
  const draw = () => canvas.getContext("2d").drawImage(
    sheet, (number % across) * side, Math.floor(number / across) * side, side, side, 0, 0, side, side);
  if (sheet.complete && sheet.naturalWidth) draw();
  else sheet.addEventListener("load", draw, { once: true });
  return canvas;
};

/* Show a picture at full size in a dialog. */
pellucid.showFull = (title, uri, alt) => {
  const dialog = document.getElementById("full");
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector(".wide").replaceChildren(pellucid.element("img", { src: uri, alt }));
  dialog.querySelector("button").onclick = () => dialog.close();
  dialog.showModal();
};

/* The section and the epoch in the page's address, as in #saliency&epoch=3. */
pellucid.address = {
  part: (name) => new URLSearchParams(location.hash.slice(1)).get(name),
  place: () => location.hash.slice(1).split("&").find((part) => part && !part.startsWith("epoch=")) ?? "",
  keep: (epoch) => {
    const parts = [pellucid.address.place(), `epoch=${epoch}`].filter(Boolean);
    // replace: selected epochs should not fill the browser's history
    history.replaceState(null, "", `#${parts.join("&")}`);
  },
};

/* Wrap a section's function: if it throws, the section shows the error and the others keep working. */
pellucid.guarded = (root, work) => (...given) => {
  try {
    return work(...given);
  } catch (error) {
    root.querySelector(".body").replaceChildren(
      pellucid.element("p", { class: "notice" }, `This section cannot be shown: ${error.message}`));
    return undefined;
  }
};

/* Set up the epoch slider and its play button; `show` is called with the selected epoch. */
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

/* Describe how long ago something happened; the clock of the reader may be behind that of the run. */
pellucid.age = (seconds) => {
  const [count, unit] = seconds < 3600 ? [seconds / 60, "minute"] : seconds < 86400 ? [seconds / 3600, "hour"] : [seconds / 86400, "day"];
  const whole = Math.floor(Math.max(count, 0));
  return whole ? `${whole} ${unit}${whole === 1 ? "" : "s"} ago` : "less than a minute ago";
};

/* Keep the age of the page of a running run up to date. */
pellucid.showAge = () => {
  const written = document.getElementById("written");
  if (!written) return;
  const update = () => {
    const seconds = (Date.now() - Date.parse(written.dateTime)) / 1000;
    document.getElementById("age").textContent = ` (${pellucid.age(seconds)})`;
  };
  update();
  setInterval(update, AGE_MS);
};

pellucid.start = () => {
  pellucid.showAge();
  const { epochs, classes, sections } = JSON.parse(document.getElementById("data").textContent);
  const page = { epochs, classes, ...pellucid };
  const shown = [];
  const show = (epoch) => {
    document.documentElement.dataset.epoch = epoch;
    for (const one of shown) one(epoch);
  };
  const choose = epochs.length > 1 ? pellucid.slider(epochs, show) : show;
  page.choose = (epoch) => { // in long runs not every epoch has figures: select the nearest one that does
    const distance = (one) => Math.abs(one - epoch);
    if (epochs.length) choose(epochs.reduce((best, one) => (distance(one) < distance(best) ? one : best)));
  };
  for (const [name, { kind, data }] of Object.entries(sections)) {
    const root = document.getElementById(name);
    const update = pellucid.guarded(root, pellucid.kinds[kind])(root, data, page);
    if (update) shown.push(pellucid.guarded(root, update));
  }
  // NaN, because Number(null) is 0, a valid epoch
  const kept = Number(pellucid.address.part("epoch") ?? NaN);
  const place = pellucid.address.place();
  if (epochs.length) choose(epochs.includes(kept) ? kept : epochs[epochs.length - 1]);
  // only now, since the sections get their final height when they are filled
  if (place) {
    history.scrollRestoration = "manual"; // after a reload, the browser would scroll back to its own idea of the place
    document.getElementById(place)?.scrollIntoView({ behavior: "instant" });
  }
  // a link to a section removes the epoch from the address
  addEventListener("hashchange", () => {
    if (epochs.length) pellucid.address.keep(Number(document.documentElement.dataset.epoch));
  });
};
