/* Out-of-distribution detection. data: {best, scores: [{name, detail}], sets: [{name, detail, images, confidence}],
   confidence, test_images, cells: [score][set] = [auroc, low, high, fpr], histograms: [score] = {edges, is_logarithmic,
   test, sets}, lists: {score: {indices, labels, predictions, confidences, values}}, thumbnails, classes}. */
(() => {
  const [WIDTH, HEIGHT] = [520, 190];
  const EDGE = { top: 8, right: 12, bottom: 26, left: 12 };

  /* Format an area with three digits, or four if it would be rounded to 1. */
  const area = (value) => (value === 1 || value < 0.9995 ? value.toFixed(3) : Math.min(value, 0.9999).toFixed(4));
  const short = (value) => {
    const isExtreme = Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-3);
    const text = isExtreme ? value.toExponential(1) : Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
    return text.replaceAll("-", "−");
  };

  const table = (data, page, choose) => {
    const buttons = data.cells.map((line, row) => line.map(([auroc, low, high, fpr], column) => {
      const button = page.element("button", { type: "button", class: auroc >= 0.5 ? "above" : "below", "aria-pressed": "false" },
        page.element("b", {}, area(auroc)), page.element("small", {}, `${area(low)} … ${area(high)}`),
        page.element("small", {}, `FPR ${page.percent(fpr)}`));
      button.style.setProperty("--share", (2 * Math.abs(auroc - 0.5)).toFixed(3));
      button.addEventListener("click", () => choose(row, column));
      return button;
    }));
    const head = page.element("tr", {}, page.element("th", { scope: "col" }, "score"), ...data.sets.map(({ name, detail, confidence }) =>
      page.element("th", { scope: "col" }, name, page.element("small", {}, detail), page.element("small", {}, `mean confidence ${page.percent(confidence)}`))));
    const rows = data.scores.map(({ name, detail }, row) => page.element("tr", name === data.best ? { class: "best" } : {},
      page.element("th", { scope: "row" }, name.replaceAll("_", " "), page.element("small", {}, detail),
        ...(name === data.best ? [page.element("small", {}, "highest mean AUROC")] : [])),
      ...buttons[row].map((button) => page.element("td", {}, button))));
    return { parts: [page.element("thead", {}, head), page.element("tbody", {}, ...rows)], buttons };
  };

  /* Return about four round positions on the axis. */
  const ticks = ({ edges, is_logarithmic: isLogarithmic }) => {
    const [low, high] = [edges[0], edges.at(-1)];
    if (isLogarithmic) {
      const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
      const step = Math.max(1, Math.ceil((last - first + 1) / 5));
      return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, n) => 10 ** (first + n * step));
    }
    const rough = (high - low) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
    const made = [];
    for (let at = Math.ceil(low / step) * step; at <= high; at += step) made.push(Math.abs(at) < step / 1e6 ? 0 : at);
    return made;
  };

  const histogram = (shown, column, label, page) => {
    const { edges, test, sets, is_logarithmic: isLogarithmic } = shown;
    const at = isLogarithmic ? Math.log : (value) => value;
    const [low, high] = [at(edges[0]), at(edges.at(-1))];
    const x = (value) => EDGE.left + ((at(value) - low) / (high - low || 1)) * (WIDTH - EDGE.left - EDGE.right);
    const most = Math.max(...test, ...sets[column], 1e-9);
    const floor = HEIGHT - EDGE.bottom;
    const y = (share) => floor - (share / most) * (floor - EDGE.top);
    const steps = (shares) => shares.map((share, bin) => `H${x(edges[bin]).toFixed(1)}V${y(share).toFixed(1)}H${x(edges[bin + 1]).toFixed(1)}`).join("");
    const outline = (shares) => `M${x(edges[0]).toFixed(1)} ${floor}${steps(shares)}V${floor}`;
    return page.drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
      page.drawn("path", { class: "inside", d: `${outline(test)}Z` }),
      page.drawn("path", { class: "outside", d: outline(sets[column]) }),
      page.drawn("path", { class: "axis", d: `M${x(edges[0])} ${floor}H${x(edges.at(-1))}` }),
      ...ticks(shown).map((value) => page.drawn("text", { x: x(value), y: HEIGHT - 8, "text-anchor": "middle" }, short(value))));
  };

  pellucid.kinds.out_of_distribution = (root, data, page) => {
    const pictures = page.thumbnails(data.thumbnails);
    const nameOf = (label) => data.classes[label] ?? String(label);
    const [plot, caption, heading, note, list] =
      [".spread div", ".spread figcaption", ".odd h3", ".odd .aside", ".odd ul"].map((part) => root.querySelector(part));
    let listed = null; // the score whose images are shown

    const card = (lists, number) => {
      const [index, label, prediction] = ["indices", "labels", "predictions"].map((key) => lists[key][number]);
      const outcome = label === prediction ? nameOf(label) : `${nameOf(label)} → ${nameOf(prediction)}`;
      const text = `${outcome}, ${page.percent(lists.confidences[number])}`;
      const picture = pictures.canvas(index, { class: "tile", role: "img", "aria-label": `Test image ${index}: ${text}` });
      return page.element("li", {}, page.opener(index, {}, ...[picture].filter(Boolean), page.element("span", {}, text)),
        page.element("span", { class: "detail" }, `score ${short(lists.values[number])}`));
    };
    const showImages = (score) => {
      if (listed === score) return;
      listed = score;
      const lists = data.lists[score];
      heading.textContent = `Test images least like the training images by ${score}`;
      note.textContent = lists ? "Highest score first. Below each image: true class, → prediction if wrong, and confidence." : "This run has no images for this score.";
      list.replaceChildren(...(lists?.indices ?? []).map((_, number) => card(lists, number)));
    };
    const choose = (row, column) => {
      for (const button of buttons.flat()) button.setAttribute("aria-pressed", String(button === buttons[row][column]));
      const [score, set] = [data.scores[row].name, data.sets[column]];
      const [auroc, , , fpr] = data.cells[row][column];
      const text = `${score} of ${page.many(data.test_images, "test image")} (gray) and of ${page.many(set.images, "image")} ` +
        `in the set ${set.name} (orange line): AUROC ${area(auroc)}. A threshold that accepts 95% of the test images also accepts ${page.percent(fpr)} of the others.`;
      plot.replaceChildren(histogram(data.histograms[row], column, text, page));
      caption.textContent = text;
      showImages(score);
    };

    const { parts, buttons } = table(data, page, choose);
    root.querySelector(".areas").append(...parts);
    root.querySelector(".key").textContent = "Each cell: AUROC, its 95% interval, and FPR at 95% TPR. " +
      `Mean confidence in test images: ${page.percent(data.confidence)}. Select a cell to see its histogram and the images of its score.`;
    const row = Math.max(0, data.scores.findIndex(({ name }) => name === data.best));
    // the set that the best score detects worst
    const areas = data.cells[row].map(([auroc]) => auroc);
    choose(row, areas.indexOf(Math.min(...areas)));
    return null;
  };
})();
