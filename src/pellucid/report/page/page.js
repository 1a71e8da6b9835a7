"use strict";
/* The page: one epoch is chosen, every section shows it.

A section's script registers a function under its kind:

    pellucid.kinds.NAME = (root, data, page) => (epoch) => { … };

root: the section's element. data: its JSON. page: {epochs, classes, element, latest}.
What it returns is called with every epoch that is chosen, first at the start.
*/
const pellucid = { kinds: {} };

/* An element with attributes and children; texts stay texts. */
pellucid.element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

/* The last of the epochs (keys of an object) that is not after the chosen one, or else the first; as a string. */
pellucid.latest = (byEpoch, epoch) => {
  const numbers = Object.keys(byEpoch).map(Number).sort((a, b) => a - b);
  return String(numbers.filter((number) => number <= epoch).pop() ?? numbers[0]);
};

pellucid.start = () => {
  const { epochs, classes, sections } = JSON.parse(document.getElementById("data").textContent);
  const page = { epochs, classes, element: pellucid.element, latest: pellucid.latest };
  const show = Object.entries(sections).map(([name, { kind, data }]) =>
    pellucid.kinds[kind](document.getElementById(name), data, page));
  const slider = document.getElementById("epoch");
  const choose = (position) => {
    const epoch = epochs[position];
    document.documentElement.dataset.epoch = epoch;
    if (slider) {
      slider.value = position;
      slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
      document.getElementById("epoch-shown").textContent = `epoch ${epoch}`;
    }
    for (const one of show) if (one) one(epoch);
  };
  if (slider) {
    const play = document.getElementById("play");
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    };
    slider.addEventListener("input", () => { stop(); choose(Number(slider.value)); });
    play.addEventListener("click", () => {
      if (timer) return stop();
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      if (Number(slider.value) === epochs.length - 1) choose(0);
      timer = setInterval(() => {
        choose(Number(slider.value) + 1);
        if (Number(slider.value) === epochs.length - 1) stop();
      }, 1100);
    });
  }
  choose(epochs.length - 1);
};
