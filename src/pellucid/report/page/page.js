"use strict";
/* The page: sections that are created when they come near, the selected epoch, and the place in the page's address.

The script of a section registers a function under its kind:

    pellucid.kinds.NAME = (root, data, page) => result;

root: the section's element. data: its JSON. page: this object. The result is null, a function (epoch) => void, or an
object with some of {show(epoch), open(place), ready, paint}. `show` is called with the selected epoch first, and when
another one is selected; `open` when the address names something in the section; `ready` is a promise if it fills later;
`paint` paints what is otherwise painted when it comes into view, for paper.

A place is {section, epoch, image, method, class, layer, channel}, in the address as #explain&epoch=2&image=1234&method=deeplift&class=4.
*/
const pellucid = { kinds: {} };

const STEP_MS = 1100; // time per epoch while playing
const AGE_MS = 10000; // time between updates of the page's age
const REST_MS = 150; // time after a step of the slider until sections out of sight are updated
const BARS = 60; // height of the contents at the top and of the slider at the bottom, which cover the sections
const NEAR = "600px 0px"; // distance from the visible part at which a section is created
const KEYS = ["image", "method", "class", "layer", "channel"]; // parts of a place besides the section and the epoch

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

/* Return {key, isExact} of the epoch (a key of an object) of the explained network, the best one, or of the latest before;
   without a best epoch, the last one is it. */
pellucid.explained = (byEpoch) => {
  const key = pellucid.latest(byEpoch, pellucid.best ?? Infinity);
  return { key, isExact: pellucid.best === null || Number(key) === pellucid.best };
};

/* Return a notice if another epoch than the selected one is shown. */
pellucid.stale = (shown, epoch) =>
  Number(shown) === epoch ? "" : `No data for epoch ${epoch}; showing epoch ${shown}.`;

/* Show a picture at full size in a dialog. */
pellucid.showFull = (title, uri, alt) => {
  const dialog = document.getElementById("full");
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector(".wide").replaceChildren(pellucid.element("img", { src: uri, alt }));
  dialog.querySelector("button").onclick = () => dialog.close();
  dialog.showModal();
};

/* --- the place in the page's address ---------------------------------------------------------------------------- */

const nowhere = () => ({ section: null, epoch: null, image: null, method: null, class: null, layer: null, channel: null });

const count = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : null);

pellucid.parsePlace = (hash) => {
  const [section, ...rest] = hash.replace(/^#/, "").split("&");
  const isKey = section.includes("=");
  const parts = new URLSearchParams((isKey ? [section, ...rest] : rest).join("&"));
  let name = null;
  try {
    name = isKey || !section ? null : decodeURIComponent(section);
  } catch { /* a lone percent sign: the address names no section */ }
  return { section: name, epoch: count(parts.get("epoch")), image: count(parts.get("image")),
    method: parts.get("method") || null, class: count(parts.get("class")),
    layer: parts.get("layer") || null, channel: count(parts.get("channel")) };
};

pellucid.formatPlace = (place) => {
  const parts = [place.section === null ? null : encodeURIComponent(place.section)];
  for (const key of ["epoch", ...KEYS]) {
    if ((place[key] ?? null) !== null) parts.push(`${key}=${encodeURIComponent(place[key])}`);
  }
  return `#${parts.filter((part) => part !== null).join("&")}`;
};

pellucid.place = nowhere();

const writePlace = (isNew) =>
  history[isNew ? "pushState" : "replaceState"](null, "", pellucid.formatPlace(pellucid.place));

/* Return the address of a place for a link; without an epoch, so that the selected one is kept. */
pellucid.href = (change) => pellucid.formatPlace({ ...nowhere(), ...change });

/* Record the state of a section in the address, as long as that is the section the address names. */
pellucid.keep = (section, change) => {
  Object.assign(pellucid.place, nowhere(), { section, epoch: pellucid.place.epoch }, change);
  writePlace(false);
};

/* Go to a place: its section is created, opened there and scrolled to. */
pellucid.go = (change, { replace = false, scroll = true } = {}) => {
  Object.assign(pellucid.place, nowhere(), { section: pellucid.place.section, epoch: pellucid.place.epoch }, change);
  writePlace(!replace);
  return arrive(scroll);
};

/* Create a link that opens a test image in the section "explain"; on pages without it, a span with the same content. */
pellucid.opener = (index, attributes = {}, ...content) => {
  const { method = null, label = null, ...others } = attributes;
  if (!("explain" in pellucid.sections)) return pellucid.element("span", others, ...content);
  const href = pellucid.href({ section: "explain", image: index, method, class: label });
  return pellucid.element("a", { title: `Explain test image ${index}`, ...others, class: `opener ${others.class ?? ""}`.trim(), href },
    ...content);
};

const resets = new Map(); // timers by button

/* Copy the page's address, with the current place, to the clipboard. */
pellucid.copyLink = async (button) => {
  button.dataset.text ??= button.textContent; // it may still say "Copied"
  const say = (word) => {
    button.textContent = word;
    clearTimeout(resets.get(button));
    resets.set(button, setTimeout(() => { button.textContent = button.dataset.text; }, 1500));
  };
  try {
    await navigator.clipboard.writeText(location.href);
    say("Copied");
  } catch { // no permission, or a page opened from disk in some browsers
    const field = pellucid.element("textarea", { readonly: "", "aria-hidden": "true", class: "offscreen" });
    field.value = location.href;
    document.body.append(field);
    field.select();
    say(document.execCommand("copy") ? "Copied" : "Copy it from the address bar");
    field.remove();
    button.focus({ preventScroll: true });
  }
};

/* Offer a blob as a download. */
pellucid.saveFile = (name, blob) => {
  const link = pellucid.element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

/* --- sections --------------------------------------------------------------------------------------------------- */

const made = {}; // by name: {root, show, open, ready, shown}
let isEager = false;
let anchor = null; // the section to keep in view while sections above it are created; null once the reader scrolls

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

const create = (name) => {
  if (made[name]) return made[name];
  const root = document.getElementById(name);
  made[name] = { root, show: null, open: null, ready: Promise.resolve(), shown: NaN, isNear: false };
  const build = pellucid.guarded(root, () => {
    const data = JSON.parse(document.getElementById(`data-${name}`).textContent);
    return pellucid.kinds[pellucid.sections[name]](root, data, pellucid) ?? {};
  });
  const result = build() ?? {};
  const parts = typeof result === "function" ? { show: result } : result;
  for (const part of ["show", "open", "paint"]) if (parts[part]) made[name][part] = pellucid.guarded(root, parts[part]);
  if (parts.ready) made[name].ready = parts.ready;
  root.dataset.created = "";
  refresh(made[name]);
  return made[name];
};

/* Show the selected epoch in a section, unless it does already. */
const refresh = (one) => {
  if (one.shown === pellucid.epoch) return;
  one.shown = pellucid.epoch;
  one.show?.(pellucid.epoch);
};

/* Create a section now; the promise is fulfilled with true once it is filled, or with false if there is none. */
pellucid.ensure = async (name) => {
  if (!(name in pellucid.sections)) return false;
  await create(name).ready;
  return true;
};

/* Create all sections and update them as soon as an epoch is selected, even out of sight, as for printing. */
pellucid.showAll = async () => {
  isEager = true;
  for (const name of Object.keys(pellucid.sections)) refresh(create(name));
  const paint = () => { for (const one of Object.values(made)) one.paint?.(); };
  paint(); // a browser that prints does not wait
  await Promise.all(Object.values(made).map((one) => one.ready));
  paint();
};

const offers = [];

/* Offer pixels of test images to other sections, as a function (index) => promise of an image or null. */
pellucid.offerImages = (find) => offers.push(find);

/* Find the pixels of a test image in any section that has them. The promise is fulfilled with {index, size, channels,
   bytes, label, prediction, confidence, isExact}, or with null. */
pellucid.findImage = async (index) => {
  for (const name of pellucid.withImages) await pellucid.ensure(name);
  for (const find of offers) {
    const image = await find(index);
    if (image) return image;
  }
  return null;
};

const isVisible = (root) => {
  const { top, bottom } = root.getBoundingClientRect();
  return bottom > BARS && top < innerHeight - BARS;
};

let rest = 0;

const select = (epoch) => {
  pellucid.epoch = epoch;
  document.documentElement.dataset.epoch = epoch;
  const near = Object.values(made).filter((one) => one.isNear || isEager);
  const visible = near.filter((one) => isEager || isVisible(one.root)); // measured before anything changes
  visible.forEach(refresh);
  // those that only come near when the reader scrolls wait until the slider rests
  clearTimeout(rest);
  rest = setTimeout(() => near.forEach(refresh), REST_MS);
};

let held = null; // where the page was scrolled to, and its height then

/* Scroll to the anchor. */
const hold = () => {
  anchor.scrollIntoView({ behavior: "instant" });
  held = { top: scrollY, height: document.documentElement.scrollHeight };
};

/* Select the epoch, section and whatever else `pellucid.place` names. */
const arrive = async (isScrolling) => {
  const { section, epoch } = pellucid.place;
  if (epoch !== null && epoch !== pellucid.epoch && pellucid.epochs.includes(epoch)) pellucid.slide(epoch);
  pellucid.place.epoch = pellucid.epochs.length ? pellucid.epoch : null;
    anchor = null;
  if (section === null || !Object.hasOwn(pellucid.sections, section)) return;
  const one = create(section);
  const isInside = KEYS.some((key) => pellucid.place[key] !== null);
  if (isScrolling) {
    // a section marks the part that an address with an image, a method or a class is about
    anchor = (isInside && one.root.querySelector("[data-place]")) || one.root;
    hold();
  }
  await one.ready;
  refresh(one);
  if (isInside) one.open?.(pellucid.place);
};

const watchSections = () => {
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) create(target.id);
      const one = made[target.id];
      if (!one) continue;
      one.isNear = isIntersecting;
      if (isIntersecting) refresh(one);
    }
  }, { rootMargin: NEAR });
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const visible = new Set();
  const current = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) visible[isIntersecting ? "add" : "delete"](target.id);
    const first = Object.keys(pellucid.sections).find((name) => visible.has(name));
    for (const [name, link] of links) {
      if (decodeURIComponent(name) === first) {
        link.setAttribute("aria-current", "true");
        const list = link.closest("ul");
        if (list) list.scrollLeft = link.offsetLeft - list.clientWidth / 3;
      } else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-15% 0px -60% 0px" });
  for (const name of Object.keys(pellucid.sections)) {
    const root = document.getElementById(name);
    near.observe(root);
    current.observe(root);
  }
  // a section above the anchor grows when it is filled; not every browser keeps the reader's place by itself
  const growth = new ResizeObserver(() => { if (anchor) hold(); });
  for (const part of document.querySelectorAll("header, main")) growth.observe(part);
  for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) {
    addEventListener(kind, () => { anchor = null; }, { passive: true, capture: true });
  }
  // a scroll bar sends no other event
  addEventListener("scroll", () => {
    if (anchor && Math.abs(scrollY - held.top) > 1 && document.documentElement.scrollHeight === held.height) anchor = null;
  }, { passive: true });
};

/* --- epochs ----------------------------------------------------------------------------------------------------- */

const keepEpoch = (epoch) => {
  pellucid.place.epoch = epoch;
  // replace: selected epochs should not fill the browser's history
  writePlace(false);
};

/* Set up the epoch slider and its play button; `show` is called with the selected epoch. */
const slider = (epochs, show) => {
  const range = document.getElementById("epoch");
  const play = document.getElementById("play");
  let timer = null;
  const at = () => Number(range.value);
  const choose = (position) => {
    const epoch = epochs[position];
    range.value = position;
    range.setAttribute("aria-valuetext", `epoch ${epoch}`);
    document.getElementById("epoch-shown").textContent = `epoch ${epoch}`;
    show(epoch);
  };
  const stop = () => {
    if (timer === null) return;
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    keepEpoch(epochs[at()]);
  };
  range.addEventListener("input", () => { stop(); choose(at()); });
  range.addEventListener("change", () => keepEpoch(epochs[at()]));
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    play.textContent = "Pause";
    if (at() === epochs.length - 1) choose(0);
    timer = setInterval(() => {
      choose(at() + 1);
      if (at() === epochs.length - 1) stop();
    }, STEP_MS);
  });
  return (epoch) => { stop(); choose(epochs.indexOf(epoch)); };
};

/* Select the epoch with figures that is nearest to the given one: in long runs, not every epoch has some. */
pellucid.choose = (epoch) => {
  const { epochs } = pellucid;
  if (!epochs.length) return;
  const distance = (one) => Math.abs(one - epoch);
  pellucid.slide(epochs.reduce((best, one) => (distance(one) < distance(best) ? one : best)));
  keepEpoch(pellucid.epoch);
};

/* --- age of the page -------------------------------------------------------------------------------------------- */

/* Describe how long ago something happened; the clock of the reader may be behind that of the run. */
pellucid.age = (seconds) => {
  const [count, unit] = seconds < 3600 ? [seconds / 60, "minute"] : seconds < 86400 ? [seconds / 3600, "hour"] : [seconds / 86400, "day"];
  const whole = Math.floor(Math.max(count, 0));
  return whole ? `${whole} ${unit}${whole === 1 ? "" : "s"} ago` : "less than a minute ago";
};

/* Keep the age of the page of a running run up to date. */
const showAge = () => {
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
  showAge();
  // {epochs, best: the epoch of the explained network or null, classes, palette, sections: {name: kind}, withImages: [names of sections that offer images]}
  Object.assign(pellucid, JSON.parse(document.getElementById("data").textContent));
  const { epochs } = pellucid;
  pellucid.slide = epochs.length > 1 ? slider(epochs, select) : select;
  Object.assign(pellucid.place, pellucid.parsePlace(location.hash));
  pellucid.epoch = NaN;
  if (epochs.length) pellucid.slide(epochs.includes(pellucid.place.epoch) ? pellucid.place.epoch : epochs[epochs.length - 1]);
  watchSections();
  if (pellucid.place.section) {
    history.scrollRestoration = "manual"; // after a reload, the browser would scroll back to its own idea of the place
    arrive(true);
  }
  // a link of the page, an edited address, or the browser's back button
  addEventListener("hashchange", () => {
    Object.assign(pellucid.place, pellucid.parsePlace(location.hash));
    arrive(true);
    writePlace(false);
  });
  addEventListener("beforeprint", pellucid.showAll);
};
