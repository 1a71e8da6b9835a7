/* The channels of a hidden layer that carry the relevance of the explained image; data: see channel_data.js.

`pellucid.explainChannels(root, page, keep)` returns {tell(image, label), open(layer, channel), approach()}; `keep` records
the layer and the channel in the address. */
pellucid.explainChannels = (root, page, keep) => {
  const CROPS = 3;
  const place = root.querySelector(".by-channel");
  if (!("channels" in page.sections)) return { tell: () => {}, open: () => false, approach: () => {} };
  const [select, list, note] = [".layer", ".channel-list", ".channel-note"].map((part) => place.querySelector(part));
  const name = (label) => page.classes[label] ?? `class ${label}`;
  const layers = page.channelLayers();
  let [image, label, isNear] = [null, null, false];

  const layer = () => layers[Number(select.value)];
  const show = (item, all) => {
    const own = layer();
    keep({ layer: own.name, channel: item.channel });
    page.showChannel(own, item.channel, { image, label, item, all }, () => keep({}));
  };

  const row = (item, all, outline) => {
    const [own, canvas] = [layer(), page.element("canvas", { class: "pixels", "aria-hidden": "true" })];
    const thumb = page.element("span", { class: "thumb" }, canvas);
    item.map().then((map) => {
      page.paintSigned(canvas, map.size, map.values, map.unit / all.limit * page.STEPS);
      if (outline) thumb.append(outline.cloneNode(true));
    });
    const found = page.channelImages(own, item.channel).found.slice(0, CROPS);
    const largest = Math.max(...all.items.map(({ value }) => Math.abs(value)));
    const button = page.element("button", { type: "button" }, thumb,
      page.element("span", { class: "words" }, page.element("b", {}, `Channel ${item.channel}`),
        page.element("span", { class: "pale" }, own.row(item.channel) === null ? "" : page.channelUse(own, item.channel)),
        page.channelBar(item.value, largest), page.element("span", {}, page.channelAmount(item, all))),
      page.element("span", { class: "crops" }, ...found.map((one) => own.pictures.canvas(one.crop, { "aria-hidden": "true" }))));
    button.addEventListener("click", () => show(item, all));
    return page.element("li", {}, button);
  };

  const fill = () => {
    const all = isNear && image ? layer().contributions(image.index, label) : null;
    const outline = all && page.outline(image.size, image.channels, image.bytes);
    const focused = [...list.children].indexOf(document.activeElement?.closest("li"));
    list.replaceChildren(...(all?.items ?? []).map((item) => row(item, all, outline)));
    if (focused >= 0) list.children[focused]?.querySelector("button").focus({ preventScroll: true });
  };

  const tell = (...shown) => {
    [image, label] = shown;
    const known = layer().classesOf(image.index);
    place.hidden = !known.length;
    if (place.hidden) return;
    const isStored = known.includes(label);
    place.querySelector("h3").textContent = `Channels that carry the evidence for ${name(label)}`;
    select.closest("label").hidden = !isStored || layers.length < 2;
    note.textContent = isStored
      ? `The strongest of ${layer().sizes}, by ${layer().method}. Maps share one color scale, ±${page.digits(layer().contributions(image.index, label).limit)}. Select a channel to see what it stands for.`
      : `The channels of this image are stored for ${known.map(name).join(" and ")}.`;
    fill();
  };

  const approach = () => {
    if (isNear) return;
    isNear = true;
    fill();
  };

  select.append(...layers.map((one, number) => page.element("option", { value: number }, `${one.name} (${one.sizes})`)));
  select.addEventListener("change", () => tell(image, label));
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    approach();
  }, { rootMargin: "400px" }).observe(place);

  return {
    tell,
    approach,
    /* Show a channel of the image; return false if it is not stored. */
    open: (wanted, channel) => {
      const number = wanted === null ? 0 : layers.findIndex((one) => one.name === wanted);
      const all = number < 0 ? null : layers[number].contributions(image.index, label);
      const item = all?.items.find((one) => one.channel === channel);
      if (!item) return false;
      select.value = number;
      tell(image, label);
      show(item, all);
      return true;
    },
  };
};
