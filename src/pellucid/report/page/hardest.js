/* Hardest test images. data: {classes, cards: {epoch: {size, channels, images, map_size, maps, method, recommended,
   refused, indices, labels, predictions, confidences, true_probabilities, losses, limits}}}; images are bytes and maps
   signed bytes from −127 to 127 at the limit, compressed with zlib and encoded in base64. */
{
  const card = (cards, bytes, number, name, page) => {
    const [label, prediction] = [name(cards.labels[number]), name(cards.predictions[number])];
    const index = cards.indices[number];
    const finite = (value, format) => (value === null ? "not finite" : format(value));
    const part = (values, [height, width], channels = 1) =>
      values.subarray(number * height * width * channels, (number + 1) * height * width * channels);
    const pixels = part(bytes.images, cards.size, cards.channels);
    const [image, map] = [`Test image ${index}: ${label}`, `Relevance for ${prediction} in test image ${index} by ${cards.method}`]
      .map((text) => page.element("canvas", { class: "tile pixels", role: "img", "aria-label": text }));
    page.paintImage(image, cards.size, cards.channels, pixels);
    page.paintSigned(map, cards.map_size, part(bytes.maps, cards.map_size));
    const frame = page.element("span", { class: "framed" }, map, ...[page.outline(cards.size, cards.channels, pixels)].filter(Boolean));
    const title = page.element("p", {}, page.element("b", {}, label), " predicted as ", page.element("b", {}, prediction));
    if (cards.labels[number] === cards.predictions[number]) title.replaceChildren(page.element("b", {}, label), ", correct");
    const loss = `loss ${finite(cards.losses[number], (value) => value.toFixed(2))}`;
    const confidence = `confidence ${page.percent(cards.confidences[number])}, true class ${page.percent(cards.true_probabilities[number])}`;
    const method = cards.method ? { method: cards.method } : {};
    return page.element("li", {},
      page.opener(index, { class: "pair", ...method, label: cards.predictions[number] }, page.element("span", { class: "framed" }, image), frame),
      title,
      page.element("p", { class: "detail" }, `${loss} · ${confidence}`),
      page.element("p", { class: "detail" }, `test image ${index} · scale ${finite(cards.limits[number], (value) => `±${value.toPrecision(2)}`)}`));
  };

  pellucid.kinds.hardest = (root, data, page) => {
    const decoded = {}; // by epoch
    const name = (label) => data.classes[label] ?? String(label);
    const [which, method, list] = [".which", ".method", ".cards"].map((part) => root.querySelector(part));
    let selected = null;

    const decode = async (epoch) => {
      const [images, maps] = await Promise.all([data.cards[epoch].images, data.cards[epoch].maps].map(page.unpack));
      return { images, maps: new Int8Array(maps.buffer) };
    };
    const render = (epoch, shown, bytes) => {
      const cards = data.cards[shown];
      which.textContent = page.stale(shown, epoch);
      const refused = cards.refused.map((one) => ` ${one} does not apply to this model.`).join("");
      const why = cards.recommended ? ", the recommended method" : "";
      method.textContent = cards.method ? `Explanations by ${cards.method}${why}.${refused}` : "";
      list.replaceChildren(...cards.indices.map((_, number) => card(cards, bytes, number, name, page)));
    };
    const fail = (error) => list.replaceChildren(page.element("li", { class: "notice" }, `The images cannot be shown: ${error.message}`));

    const show = (epoch) => {
      selected = epoch;
      const shown = page.latest(data.cards, epoch);
      if (decoded[shown]?.images) return render(epoch, shown, decoded[shown]);
      decoded[shown] ??= decode(shown).then((bytes) => { decoded[shown] = bytes; });
      return decoded[shown].then(() => { if (selected === epoch) render(epoch, shown, decoded[shown]); }).catch(fail);
    };
    page.onScheme(() => show(selected));
    return show;
  };
}
