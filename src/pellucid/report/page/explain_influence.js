/* Training images that raised or lowered the score of a test image's prediction. data: {images, labels, thumbnails,
note} or null; images: test index → {target, for: [[row, score]], against}. Returns a function of the shown image. */
pellucid.explainInfluence = (root, data, page) => {
  const place = root.querySelector(".influence");
  if (!data) return () => {};
  const pictures = page.thumbnails(data.thumbnails);
  const name = (label) => page.classes[label] ?? `class ${label}`;
  place.querySelector(".pale").textContent = data.note;
  const item = ([row, score]) => {
    const index = data.thumbnails.indices[row];
    return page.element("li", {}, pictures.canvas(index, { "aria-hidden": "true" }),
      page.element("span", {}, name(data.labels[row])),
      page.element("span", { class: "pale" }, `${page.signed(score)}`),
      page.element("span", { class: "pale" }, `train ${index}`));
  };
  return (image) => {
    const one = data.images[image.index];
    place.hidden = !one;
    if (!one) return;
    place.querySelector("h3").textContent = `Which training images made it say ${name(one.target)}?`;
    for (const side of ["for", "against"]) {
      place.querySelector(`.${side} ul`).replaceChildren(...one[side].map(item));
      place.querySelector(`.${side}`).hidden = !one[side].length;
    }
  };
};
