/* Confusion matrix. data: {classes, matrices: {epoch: {counts, truths, predictions, right, images}},
   images: {epoch: {uri, side, indices, labels, predictions, confidences}}, across}. */
(() => {
  const RECALL = "recall, %";
  const SHORT = 4; // longest class name, in characters, that fits horizontally above a column
  const percent = (part, whole, decimals = 1) => (whole ? `${((100 * part) / whole).toFixed(decimals)}%` : "–");
  const bare = (part, whole) => percent(part, whole).replace("%", "");
  const many = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

  const build = (classes, page) => {
    const long = classes.some((name) => name.length > SHORT);
    const head = (name) => page.element("th", { scope: "col", class: long && name !== RECALL ? "long" : "", title: name }, name);
    const cells = classes.map(() => classes.map(() => page.element("td", { tabindex: -1 })));
    const margin = () => page.element("td", { class: "margin" });
    const recalls = classes.map(margin);
    const precisions = classes.map(margin);
    const all = margin();
    const rows = classes.map((name, row) => page.element("tr", {},
      page.element("th", { scope: "row", title: name }, name), ...cells[row], recalls[row]));
    const parts = [
      page.element("thead", {}, page.element("tr", {},
        page.element("th", { scope: "col" }, "truth"), ...classes.map(head), head(RECALL))),
      page.element("tbody", {}, ...rows),
      page.element("tfoot", {}, page.element("tr", {}, page.element("th", { scope: "row" }, "precision, %"), ...precisions, all)),
    ];
    // only one cell is in the tab order; `focus` moves that role along
    cells[0][0].tabIndex = 0;
    return { parts, cells, recalls, precisions, all };
  };

  const fill = (grid, matrix) => {
    const { counts, truths, predictions, right, images } = matrix;
    counts.forEach((line, row) => line.forEach((count, column) => {
      const cell = grid.cells[row][column];
      cell.textContent = count;
      cell.className = `${row === column ? "right" : "wrong"}${count ? "" : " none"}`;
      const share = truths[row] ? count / truths[row] : 0;
      cell.style.setProperty("--share", (row === column ? share : Math.cbrt(share)).toFixed(3)); // the cube root keeps rare errors visible
    }));
    grid.recalls.forEach((cell, row) => { cell.textContent = bare(counts[row][row], truths[row]); });
    grid.precisions.forEach((cell, column) => { cell.textContent = bare(counts[column][column], predictions[column]); });
    grid.all.textContent = bare(right, images);
  };

  const move = (key, [row, column], size) => {
    const last = size - 1;
    const to = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1], Home: [row, 0], End: [row, last], PageUp: [0, column], PageDown: [last, column],
    }[key];
    return to?.map((place) => Math.min(Math.max(place, 0), last));
  };

  pellucid.kinds.confusion_matrix = (root, data, page) => {
    const { classes, matrices, images, across } = data;
    const grid = build(classes, page);
    const table = root.querySelector("table");
    table.append(...grid.parts);
    const [status, panel, which] = [".summary", ".cell", ".which"].map((name) => root.querySelector(name));
    const sheets = Object.fromEntries(Object.entries(images).map(([epoch, { uri }]) => [epoch, page.picture(uri)]));
    let matrix = null;
    let now = null;
    let focused = [0, 0];
    let open = null;

    const place = (target) => {
      const cell = target.closest("td[tabindex]");
      if (!cell) return null;
      // without the header row and the row heading
      return [cell.parentElement.rowIndex - 1, cell.cellIndex - 1];
    };
    const tell = ([row, column]) => {
      const count = matrix.counts[row][column];
      const outcome = row === column ? "correct" : `predicted as ${classes[column]}`;
      status.textContent = `${classes[row]} ${outcome}: ${many(count, "image")}, ${percent(count, matrix.truths[row])} of the row · ` +
        `recall of ${classes[row]} ${percent(matrix.counts[row][row], matrix.truths[row])} · ` +
        `precision of ${classes[column]} ${percent(matrix.counts[column][column], matrix.predictions[column])}`;
    };
    const rest = () => {
      status.textContent = `${many(matrix.images - matrix.right, "error")} in ${many(matrix.images, "test image")}: accuracy ${percent(matrix.right, matrix.images, 2)}`;
    };
    const card = (kept, number, epoch) => {
      const [label, prediction] = [classes[kept.labels[number]], classes[kept.predictions[number]]];
      const confidence = kept.confidences[number];
      const text = `${label} → ${prediction}, ${confidence === null ? "–" : percent(confidence, 1)}`;
      return page.element("li", {},
        page.tile(sheets[epoch], number, kept.side, across, `Test image ${kept.indices[number]}: ${text}`),
        page.element("span", {}, text));
    };
    const show = () => {
      if (!open) {
        panel.replaceChildren();
        return;
      }
      const [row, column] = open;
      const count = matrix.counts[row][column];
      const heading = row === column ? `${classes[row]}, correct` : `${classes[row]}, predicted as ${classes[column]}`;
      const kept = images[now];
      const examples = kept ? kept.labels.map((_, number) => number)
        .filter((number) => kept.labels[number] === row && kept.predictions[number] === column) : [];
      const note = examples.length ? `${examples.length} shown, with the confidence of the prediction.` : "No example images of this cell are available.";
      panel.replaceChildren(
        page.element("h3", {}, `${heading}: ${many(count, "test image")}`),
        page.element("p", { class: "aside" }, count ? note : ""),
        page.element("ul", { class: "tiles" }, ...examples.map((number) => card(kept, number, now))));
    };
    const select = (at) => {
      if (open) grid.cells[open[0]][open[1]].setAttribute("aria-selected", "false");
      open = at;
      grid.cells[at[0]][at[1]].setAttribute("aria-selected", "true");
      show();
    };
    const focus = (at) => {
      grid.cells[focused[0]][focused[1]].tabIndex = -1;
      focused = at;
      const cell = grid.cells[at[0]][at[1]];
      cell.tabIndex = 0;
      cell.focus();
    };

    table.addEventListener("pointerover", (event) => { const at = place(event.target); if (at) tell(at); });
    table.addEventListener("pointerleave", () => (open ? tell(open) : rest()));
    table.addEventListener("focusin", (event) => { const at = place(event.target); if (at) tell(at); });
    table.addEventListener("click", (event) => { const at = place(event.target); if (at) { focus(at); select(at); } });
    table.addEventListener("keydown", (event) => {
      const at = place(event.target);
      if (!at) return;
      const to = move(event.key, at, classes.length);
      if (to) focus(to);
      else if (event.key === "Enter" || event.key === " ") select(at);
      else return;
      event.preventDefault();
    });
    return (epoch) => {
      now = page.latest(matrices, epoch);
      matrix = matrices[now];
      which.textContent = page.stale(now, epoch);
      fill(grid, matrix);
      if (open) tell(open);
      else rest();
      show();
    };
  };
})();
