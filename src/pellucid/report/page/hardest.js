/* Hardest test images. data: {classes, cards: {epoch: {images, maps, side, method, refused, indices,
   labels, predictions, confidences, true_probabilities, losses, limits}}}. */
(() => {
  const percent = (share) => {
    if (share === null) return "–"; // NaN, after training has diverged
    if (share > 0 && share < 0.0005) return "< 0.1%";
    return `${(100 * share).toFixed(1)}%`;
  };

  const card = (cards, number, sheets, name, page) => {
    const [label, prediction] = [name(cards.labels[number]), name(cards.predictions[number])];
    const digits = (value, format) => (value === null ? "not finite" : format(value));
    const count = cards.indices.length;
    const title = page.element("p", {}, page.element("b", {}, label), " predicted as ", page.element("b", {}, prediction));
    if (cards.labels[number] === cards.predictions[number]) title.replaceChildren(page.element("b", {}, label), ", correct");
    const loss = `loss ${digits(cards.losses[number], (value) => value.toFixed(2))}`;
    const confidence = `confidence ${percent(cards.confidences[number])}, true class ${percent(cards.true_probabilities[number])}`;
    return page.element("li", {},
      page.element("div", { class: "pair" },
        page.tile(sheets.images, number, cards.side, count, `Test image ${cards.indices[number]}: ${label}`),
        page.tile(sheets.maps, number, cards.side, count, `Relevance for ${prediction} in test image ${cards.indices[number]} by ${cards.method}`)),
      title,
      page.element("p", { class: "detail" }, `${loss} · ${confidence}`),
      page.element("p", { class: "detail" }, `test image ${cards.indices[number]} · scale ±${digits(cards.limits[number], (value) => value.toPrecision(2))}`));
  };

  pellucid.kinds.hardest = (root, data, page) => {
    const sheets = Object.fromEntries(Object.entries(data.cards).map(([epoch, { images, maps }]) =>
      [epoch, { images: page.picture(images), maps: page.picture(maps) }]));
    const name = (label) => data.classes[label] ?? String(label);
    const [which, method, list] = [".which", ".method", ".cards"].map((part) => root.querySelector(part));
    return (epoch) => {
      const shown = page.latest(data.cards, epoch);
      const cards = data.cards[shown];
      which.textContent = page.stale(shown, epoch);
      const refused = cards.refused.map((one) => ` ${one} does not apply to this model.`).join("");
      method.textContent = cards.method ? `Explanations by ${cards.method}.${refused}` : "";
      list.replaceChildren(...cards.indices.map((_, number) => card(cards, number, sheets[shown], name, page)));
    };
  };
})();
