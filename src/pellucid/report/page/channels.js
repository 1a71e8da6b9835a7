/* All channels of a layer, with their reference images; data: see channel_data.js. */
{
  const FEW = 24; // channels shown at first
  const CROPS = 4; // images of each

  pellucid.kinds.channels = (root, data, page) => {
    const layers = page.channelLayers(data);
    const [byLayer, byClass, count, list, more, state] =
      [".by-layer", ".by-class", ".channel-count", ".channel-grid", ".more", ".which"].map((part) => root.querySelector(part));
    const name = (label) => page.classes[label] ?? `class ${label}`;
    const title = ({ name: own, sizes }) => `${own} (${sizes})`;
    let isWhole = false; // all channels are shown
    const layer = () => layers[Number(byLayer.value)];

    byLayer.append(...layers.map((one, place) => page.element("option", { value: place }, title(one))));
    const labels = new Set(layers.flatMap(({ means }) => means.flatMap((row) => row.map(([label]) => label))));
    byClass.append(...[...labels].sort((a, b) => a - b).map((label) => page.element("option", { value: label }, name(label))));

    const open = (channel) => {
      page.keep(root.id, { layer: layer().name, channel });
      page.showChannel(layer(), channel, null, () => page.keep(root.id, {}));
    };
    const item = (channel) => {
      const own = layer();
      const found = page.channelImages(own, channel).found.slice(0, CROPS);
      const button = page.element("button", { type: "button" },
        page.element("b", {}, `Channel ${channel}`), page.element("span", { class: "pale" }, page.channelUse(own, channel)),
        page.element("span", { class: "crops" }, ...found.map((one) => own.pictures.canvas(one.crop, { "aria-hidden": "true" }))));
      button.addEventListener("click", () => open(channel));
      return page.element("li", {}, button);
    };

    const render = () => {
      const own = layer();
      const label = byClass.value === "" ? null : Number(byClass.value);
      const mean = (channel) => own.means[own.row(channel)].find(([one]) => one === label)?.[1] ?? 0;
      const kept = label === null ? own.channels : own.channels.filter((channel) => mean(channel) > 0).sort((a, b) => mean(b) - mean(a));
      const order = label === null ? "those with the largest mean |relevance| first" : `those with the largest mean relevance for ${name(label)} first`;
      count.textContent = `${page.many(kept.length, "channel")}, ${order}.`;
      list.replaceChildren(...(isWhole ? kept : kept.slice(0, FEW)).map(item));
      more.hidden = isWhole || kept.length <= FEW;
      more.textContent = `Show all ${kept.length}`;
    };

    root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    for (const select of [byLayer, byClass]) select.addEventListener("change", () => { isWhole = false; render(); });
    more.addEventListener("click", () => {
      isWhole = true;
      render();
      // the button disappears, so the focus moves to the first new channel
      list.children[FEW]?.querySelector("button").focus({ preventScroll: true });
    });
    render();
    return {
      /* Show the channel that the address names. */
      open: ({ layer: wanted, channel }) => {
        if (channel === null) return page.closeChannel?.();
        const place = wanted === null ? 0 : layers.findIndex((one) => one.name === wanted);
        const isKnown = place >= 0 && layers[place].row(channel) !== null;
        state.textContent = isKnown ? "" : `Channel ${channel} of layer ${wanted ?? layers[0].name} is not stored in the page.`;
        if (!isKnown) return page.closeChannel?.();
        byLayer.value = place;
        render();
        return open(channel);
      },
    };
  };
}
