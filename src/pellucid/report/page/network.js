/* Layers of the network and the filters of the first one. data: {layers: [{name, kind, detail, shape, parameters, calls}],
   parameters, count, filters: {epoch: {shape: [filter, height, width, channel], limit, bytes}}}. */
(() => {
  const MOST_ROWS = 40; // of a longer table, the rest is shown on request

  const row = (layer, total, page) => {
    const share = page.element("span", { class: "share" });
    share.style.width = `${100 * layer.parameters / (total || 1)}%`;
    const uses = layer.calls > 1 ? `, used ${layer.calls} times` : layer.calls ? "" : ", not called";
    return page.element("tr", {},
      page.element("th", { scope: "row", class: "data" }, layer.name || "(model)"),
      page.element("td", {}, `${layer.kind}${uses}`, page.element("small", {}, layer.detail)),
      page.element("td", { class: "number" }, layer.shape),
      page.element("td", { class: "number" }, layer.parameters.toLocaleString("en"), ...(layer.parameters ? [share] : [])));
  };

  const fillTable = (root, data, page) => {
    const heads = ["Layer", "Kind", "Output shape", "Parameters"].map((text, column) =>
      page.element("th", { scope: "col", class: column > 1 ? "number" : column ? "" : "data" }, text));
    const rows = data.layers.map((layer) => row(layer, data.parameters, page));
    rows.slice(MOST_ROWS).forEach((one) => { one.hidden = true; });
    const total = page.element("tr", {}, page.element("th", { scope: "row", colspan: 3 }, "Total"),
      page.element("td", { class: "number" }, data.parameters.toLocaleString("en")));
    root.querySelector("table").append(page.element("thead", {}, page.element("tr", {}, ...heads)),
      page.element("tbody", {}, ...rows), page.element("tfoot", {}, total));
    if (rows.length <= MOST_ROWS) return;
    const more = page.element("button", { type: "button" }, `Show all ${rows.length} layers`);
    more.addEventListener("click", () => {
      rows.forEach((one) => { one.hidden = false; });
      more.remove();
    });
    root.querySelector(".body").append(more);
  };

  /* Paint filters: one channel in red and blue, three channels as a color around gray. */
  const paint = (bytes, [count, height, width, channels], page) => Array.from({ length: count }, (_, number) => {
    const canvas = page.element("canvas", {});
    const size = height * width * channels;
    const values = bytes.subarray(number * size, (number + 1) * size);
    if (channels === 1) page.paintSigned(canvas, [height, width], values);
    else page.paintImage(canvas, [height, width], channels, Uint8Array.from(values, (value) => 128 + value));
    return canvas;
  });

  pellucid.kinds.network = (root, data, page) => {
    fillTable(root, data, page);
    if (!Object.keys(data.filters).length) return null;
    const [figure, tiles, caption, which] = ["figure", ".tiles", "figcaption", ".which"].map((part) => root.querySelector(part));
    const decoded = {};
    let latest = null;
    figure.hidden = false;
    return async (epoch) => {
      const shown = page.latest(data.filters, epoch);
      const { shape, limit, bytes } = data.filters[shown];
      latest = shown;
      decoded[shown] ??= page.unpack(bytes);
      const values = new Int8Array((await decoded[shown]).buffer);
      if (latest !== shown) return; // another epoch was selected meanwhile
      const reading = shape[3] === 1 ? "Red: positive weights; blue: negative" : "Gray: a weight of 0 in all channels";
      which.textContent = page.stale(shown, epoch);
      caption.textContent = `Filters of the first layer after epoch ${shown}: ${shape[0]} of ${data.count}, ${shape[1]}×${shape[2]} pixels. `
        + `${reading}; the color scale, ±${page.digits(limit)}, is shared by all filters of an epoch.`;
      tiles.setAttribute("aria-label", caption.textContent);
      tiles.replaceChildren(...paint(values, shape, page));
    };
  };
})();
