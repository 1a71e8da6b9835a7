/* Label errors. data: {classes, cards: {indices, labels, suggested, scores, label_probabilities, suggested_probabilities,
   neighbors?, self_influence?, side, channels, images}}, most suspicious first; images are bytes, compressed with zlib and
   encoded in base64. */
{
  const FEW = 24; // images shown at first
  const ORDERS = { // name: [key, direction]
    "score": ["scores", -1],
    "probability of the label": ["label_probabilities", 1],
    "neighbors with another label": ["neighbors", -1],
    "self-influence": ["self_influence", -1],
    "index": ["indices", 1],
  };

  pellucid.kinds.label_errors = (root, data, page) => {
    const { cards } = data;
    const [given, suggested, order, count, list, more] =
      [".by-given", ".by-suggested", ".by-order", ".suspect-count", ".suspects", ".more"].map((part) => root.querySelector(part));
    const name = (label) => data.classes[label] ?? String(label);
    const finite = (value, format) => (value === null ? "not finite" : format(value));
    const signed = (value) => `${value <= -0.05 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
    let bytes = null;
    let isWhole = false; // all images are shown

    const offer = (select, labels) => select.append(...[...new Set(labels)].sort((a, b) => a - b)
      .map((label) => page.element("option", { value: label }, name(label))));
    offer(given, cards.labels);
    offer(suggested, cards.suggested);
    order.append(...Object.entries(ORDERS).filter(([, [key]]) => key in cards)
      .map(([text]) => page.element("option", { value: text }, text)));

    const details = (row) => [
      `score ${finite(cards.scores[row], signed)}`,
      `p ${page.percent(cards.label_probabilities[row])} → ${page.percent(cards.suggested_probabilities[row])}`,
      cards.neighbors && `neighbors ${page.percent(cards.neighbors[row])}`,
      cards.self_influence && `self-influence ${finite(cards.self_influence[row], (value) => value.toPrecision(3))}`,
      `training image ${cards.indices[row]}`,
    ].filter(Boolean);

    const card = (row) => {
      const [own, other] = [name(cards.labels[row]), name(cards.suggested[row])];
      const canvas = page.element("canvas", { class: "pixels", role: "img", "aria-label": `Training image ${cards.indices[row]}: ${own}` });
      const values = cards.side * cards.side * cards.channels;
      page.paintImage(canvas, [cards.side, cards.side], cards.channels, bytes.subarray(row * values, (row + 1) * values));
      return page.element("li", {}, canvas, page.element("p", {}, `${own} → `, page.element("b", {}, other)),
        ...details(row).map((text) => page.element("p", { class: "detail" }, text)));
    };

    const render = () => {
      if (!bytes) return;
      const [key, direction] = ORDERS[order.value];
      const wanted = (select, label) => select.value === "" || Number(select.value) === label;
      const rows = cards.indices.map((_, row) => row)
        .filter((row) => wanted(given, cards.labels[row]) && wanted(suggested, cards.suggested[row]))
        .sort((a, b) => direction * ((cards[key][a] ?? -Infinity) - (cards[key][b] ?? -Infinity)) || a - b);
      count.textContent = `${rows.length} of the ${cards.indices.length} most suspicious images`;
      list.replaceChildren(...(isWhole ? rows : rows.slice(0, FEW)).map(card));
      more.hidden = isWhole || rows.length <= FEW;
      more.textContent = `Show all ${rows.length}`;
    };

    root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => {
      isWhole = true;
      render();
      // the button disappears, so the focus moves to the first new image
      const first = list.children[FEW];
      if (first) { first.tabIndex = -1; first.focus({ preventScroll: true }); }
    });
    for (const select of [given, suggested, order]) select.addEventListener("change", render);
    const ready = page.unpack(cards.images).then((unpacked) => { bytes = unpacked; render(); })
      .catch((error) => list.replaceChildren(page.element("li", { class: "notice" }, `The images cannot be shown: ${error.message}`)));
    return { ready };
  };
}
