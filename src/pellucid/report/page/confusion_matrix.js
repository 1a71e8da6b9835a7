/* Confusion matrix. data: {classes, numbers, matrices: {epoch: {counts, truths, predictions, right, images}},
   images: {epoch: {indices, labels, predictions, confidences}}, thumbnails, labels, differences: {epoch: …}}.

`classes` and `numbers` are the names and the class numbers of the rows. `labels` packs the int32 labels of all test
images, `differences` their predictions minus the labels; both may be missing. */
(() => {
  const RECALL = "recall, %";
  const SHORT = 4; // longest class name, in characters, that fits horizontally above a column
  const FEW = 200; // links to images of a cell at first
  const percent = (part, whole, decimals = 1) => (whole ? `${((100 * part) / whole).toFixed(decimals)}%` : "–");
  const bare = (part, whole) => percent(part, whole).replace("%", "");

  const build = (classes, page) => {
    const long = classes.some((name) => name.length > SHORT);
    const head = (name) => page.element("th", { scope: "col", class: long && name !== RECALL ? "long" : "", title: name }, name);
    const cells = classes.map(() => classes.map(() => page.element("td", { tabindex: -1 })));
    const places = new Map(cells.flatMap((line, row) => line.map((cell, column) => [cell, [row, column]])));
    const margin = () => page.element("td", { class: "margin" });
    const recalls = classes.map(margin);
    const precisions = classes.map(margin);
    const all = margin();
    const rows = classes.map((name, row) => page.element("tr", {},
      page.element("th", { scope: "row", title: name }, name), ...cells[row], recalls[row]));
    const parts = [
      page.element("thead", {},
        page.element("tr", {}, page.element("td", {}),
          page.element("th", { scope: "colgroup", colspan: classes.length, class: "axis" }, page.element("span", {}, "prediction")), page.element("td", {})),
        page.element("tr", {}, page.element("th", { scope: "col", class: "axis" }, "true class"), ...classes.map(head), head(RECALL))),
      page.element("tbody", {}, ...rows),
      page.element("tfoot", {}, page.element("tr", {}, page.element("th", { scope: "row" }, "precision, %"), ...precisions, all)),
    ];
    // only one cell is in the tab order; `focus` moves that role along
    cells[0][0].tabIndex = 0;
    return { parts, cells, places, recalls, precisions, all };
  };

  /* Return the place of the largest error, or null without any; ties go to the first. */
  const largestError = ({ counts }) => {
    let best = null;
    counts.forEach((line, row) => line.forEach((count, column) => {
      if (row !== column && count > (best === null ? 0 : counts[best[0]][best[1]])) best = [row, column];
    }));
    return best;
  };

  const fill = (grid, matrix, worst) => {
    const { counts, truths, predictions, right, images } = matrix;
    const most = worst === null ? 1 : counts[worst[0]][worst[1]];
    counts.forEach((line, row) => line.forEach((count, column) => {
      const cell = grid.cells[row][column];
      cell.textContent = count;
      cell.className = `${row === column ? "right" : "wrong"}${count ? "" : " none"}`;
      const share = row === column ? (truths[row] ? count / truths[row] : 0) : count / most;
      cell.style.setProperty("--share", share.toFixed(3));
    }));
    grid.recalls.forEach((cell, row) => { cell.textContent = bare(counts[row][row], truths[row]); });
    grid.precisions.forEach((cell, column) => { cell.textContent = bare(counts[column][column], predictions[column]); });
    grid.all.textContent = bare(right, images);
  };

  /* The color scales below the matrix. */
  const scales = (page, most) => {
    const scale = (kind, low, high, text) => page.element("div", { class: `scale ${kind}` },
      page.element("span", { class: "ends" }, low), page.element("span", { class: "track", "aria-hidden": "true" }),
      page.element("span", { class: "ends" }, high), page.element("span", {}, text));
    return [scale("right", "0%", "100%", "correct: share of the row"),
      ...(most ? [scale("wrong", "0", most.toLocaleString("en"), "errors: images, on their own scale")] : [])];
  };

  const move = (key, [row, column], size) => {
    const last = size - 1;
    const to = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1], Home: [row, 0], End: [row, last], PageUp: [0, column], PageDown: [last, column],
    }[key];
    return to?.map((place) => Math.min(Math.max(place, 0), last));
  };

  /* Find images by cell: `ofCell` returns the indices of all test images of a class with a prediction, and `cellOf` the
     class and the prediction of an image; both are promises of null where the run did not store predictions. */
  const outcomes = (data, page) => {
    const unpacked = {}; // promises, started on first use
    const numbers = async (key, text) => new Int32Array((await (unpacked[key] ??= page.unpack(text))).buffer);
    const read = async (epoch) => (epoch in data.differences
      ? Promise.all([numbers("labels", data.labels), numbers(epoch, data.differences[epoch])]) : null);
    const ofCell = async (epoch, label, prediction) => {
      const parts = await read(epoch);
      if (!parts) return null;
      const [labels, differences] = parts;
      const found = [];
      labels.forEach((one, index) => { if (one === label && one + differences[index] === prediction) found.push(index); });
      return found;
    };
    const cellOf = async (epoch, index) => {
      const [labels, differences] = (await read(epoch)) ?? [[], []];
      if (index < labels.length) return [labels[index], labels[index] + differences[index]];
      const kept = data.images[epoch];
      const number = kept?.indices.indexOf(index) ?? -1;
      return number < 0 ? null : [kept.labels[number], kept.predictions[number]];
    };
    return { ofCell, cellOf };
  };

  pellucid.kinds.confusion_matrix = (root, data, page) => {
    const { classes, numbers, matrices, images } = data;
    const grid = build(classes, page);
    const table = root.querySelector("table");
    table.append(...grid.parts);
    const [status, panel, which, legend] = [".summary", ".cell", ".which", ".scales"].map((name) => root.querySelector(name));
    const pictures = page.thumbnails(data.thumbnails);
    const { ofCell, cellOf } = outcomes(data, page);
    const rowOf = new Map(numbers.map((number, row) => [number, row]));
    const wide = table.parentElement;
    let isWide = false; // the matrix is wider than its place; kept, because each measurement takes a layout
    new ResizeObserver(() => {
      isWide = wide.scrollWidth > wide.clientWidth;
      if (open) mark(open);
    }).observe(wide);
    let matrix = null;
    let now = null;
    let focused = [0, 0];
    let open = null; // the selected cell
    let isChosen = false; // by the reader; otherwise, the largest error of each epoch is selected

    const tell = ([row, column]) => {
      const count = matrix.counts[row][column];
      const outcome = row === column ? "correct" : `predicted as ${classes[column]}`;
      status.textContent = `${classes[row]} ${outcome}: ${page.many(count, "image")}, ${percent(count, matrix.truths[row])} of the row · ` +
        `recall of ${classes[row]} ${percent(matrix.counts[row][row], matrix.truths[row])} · ` +
        `precision of ${classes[column]} ${percent(matrix.counts[column][column], matrix.predictions[column])}`;
    };
    const rest = () => {
      status.textContent = `${page.many(matrix.images - matrix.right, "error")} in ${page.many(matrix.images, "test image")}: accuracy ${percent(matrix.right, matrix.images, 2)}`;
    };

    /* The example images of a cell, as numbers in the lists of the epoch. */
    const examplesOf = ([row, column]) => {
      const kept = images[now];
      if (!kept) return [];
      return kept.indices.map((_, number) => number)
        .filter((number) => kept.labels[number] === numbers[row] && kept.predictions[number] === numbers[column]);
    };
    const card = ([row, column], number) => {
      const { indices, confidences } = images[now];
      const index = indices[number];
      const text = `${classes[row]} → ${classes[column]}, ${confidences[number] === null ? "–" : percent(confidences[number], 1)}`;
      const picture = pictures.canvas(index, { class: "tile", role: "img", "aria-label": `Test image ${index}: ${text}` });
      return page.element("li", {}, page.opener(index, {}, ...[picture].filter(Boolean), page.element("span", {}, text)));
    };

    /* The list of all images of a cell, as links; `details` is filled when it is opened. */
    const everyImage = (indices) => {
      const list = page.element("ul", { class: "indices", tabindex: -1 });
      const link = (index) => page.element("li", {}, page.opener(index, {}, String(index)));
      const details = page.element("details", {}, page.element("summary", {}, `All ${page.many(indices.length, "test image")} of this cell, by index`), list);
      details.addEventListener("toggle", () => {
        if (!details.open || list.children.length) return;
        list.append(...indices.slice(0, FEW).map(link));
        if (indices.length <= FEW) return;
        const more = page.element("button", { type: "button" }, `Show all ${indices.length.toLocaleString("en")}`);
        more.addEventListener("click", () => {
          list.append(...indices.slice(FEW).map(link));
          more.remove();
          (list.children[FEW].querySelector("a") ?? list).focus();
        });
        details.append(more);
      });
      return details;
    };

    const note = (shown, count) => {
      if (!shown) return "No example images of this cell are available.";
      const share = shown === count ? (count === 1 ? "The only one is shown" : `All ${shown} are shown`) : `${shown} of ${count.toLocaleString("en")} are shown`;
      return `${share}, with the confidence of the prediction.`;
    };

    const show = async () => {
      const [at, epoch] = [open, now];
      if (!at) {
        panel.replaceChildren(page.element("p", { class: "aside" }, `No misclassified test images in epoch ${now}.`));
        return;
      }
      const [row, column] = at;
      const count = matrix.counts[row][column];
      const heading = row === column ? `${classes[row]}, correct` : `${classes[row]}, predicted as ${classes[column]}`;
      const examples = examplesOf(at);
      panel.replaceChildren(
        page.element("h3", {}, `${heading}: ${page.many(count, "test image")}`),
        page.element("p", { class: "aside" }, count ? note(examples.length, count) : ""),
        page.element("ul", { class: "tiles" }, ...examples.map((number) => card(at, number))));
      if (count <= examples.length) return;
      const indices = await ofCell(epoch, numbers[row], numbers[column]);
      // another cell or epoch may have been selected meanwhile
      if (indices && open === at && now === epoch) panel.append(everyImage(indices));
    };

    const mark = (at) => {
      if (open) grid.cells[open[0]][open[1]].setAttribute("aria-selected", "false");
      open = at;
      if (!open) return;
      const cell = grid.cells[open[0]][open[1]];
      cell.setAttribute("aria-selected", "true");
      if (!isWide) return;
      // show the cell beside the names of the rows, without scrolling the page
      const names = cell.parentElement.firstChild.offsetWidth;
      if (cell.offsetLeft < wide.scrollLeft + names || cell.offsetLeft + cell.offsetWidth > wide.scrollLeft + wide.clientWidth) {
        wide.scrollLeft = cell.offsetLeft - (wide.clientWidth + names) / 2;
      }
    };
    const becomeTabStop = (at) => {
      grid.cells[focused[0]][focused[1]].tabIndex = -1;
      focused = at;
      grid.cells[at[0]][at[1]].tabIndex = 0;
    };
    const focus = (at) => {
      becomeTabStop(at);
      grid.cells[at[0]][at[1]].focus();
    };
    /* Select a cell; in the address, it is the cell of one of its images. */
    const select = async (at) => {
      mark(at);
      isChosen = true;
      show();
      const [row, column] = at;
      const example = examplesOf(at)[0];
      const image = example === undefined ? (await ofCell(now, numbers[row], numbers[column]))?.[0] ?? null : images[now].indices[example];
      if (open === at) page.keep("confusion_matrix", { image, class: image === null ? numbers[row] : null });
    };

    const placeOf = (target) => grid.places.get(target.closest("td")) ?? null;
    table.addEventListener("pointerover", (event) => { const at = placeOf(event.target); if (at) tell(at); });
    table.addEventListener("pointerleave", () => (open && isChosen ? tell(open) : rest()));
    table.addEventListener("focusin", (event) => { const at = placeOf(event.target); if (at) tell(at); });
    table.addEventListener("click", (event) => { const at = placeOf(event.target); if (at) { focus(at); select(at); } });
    table.addEventListener("keydown", (event) => {
      const at = placeOf(event.target);
      if (!at) return;
      const to = move(event.key, at, classes.length);
      if (to) focus(to);
      else if (event.key === "Enter" || event.key === " ") select(at);
      else return;
      event.preventDefault();
    });

    page.offerImages(async (index) => {
      const pixels = await pictures.pixels(index);
      if (!pixels) return null;
      // of the explained network, whatever epoch is shown
      const { key, isExact } = page.explained(matrices);
      const [label = null, prediction = null] = (await cellOf(key, index)) ?? (await cellOf(now, index))?.slice(0, 1) ?? [];
      const number = images[key]?.indices.indexOf(index) ?? -1;
      return { ...pixels, label, prediction: isExact ? prediction : null,
        confidence: number < 0 || !isExact ? null : images[key].confidences[number] };
    });

    return {
      show: (epoch) => {
        now = page.latest(matrices, epoch);
        matrix = matrices[now];
        which.textContent = page.stale(now, epoch);
        const worst = largestError(matrix);
        fill(grid, matrix, worst);
        legend.replaceChildren(...scales(page, worst === null ? 0 : matrix.counts[worst[0]][worst[1]]));
        if (!isChosen) {
          mark(worst);
          if (worst) becomeTabStop(worst);
        }
        if (open && isChosen) tell(open);
        else rest();
        show();
      },
      /* Select the cell of an image, or the largest error of a class. */
      open: async ({ image, class: label }) => {
        const cell = image === null ? null : await cellOf(now, image);
        const at = (cell ?? []).map((number) => rowOf.get(number));
        const row = rowOf.get(label);
        const inRow = row === undefined ? null : matrix.counts[row].map((count, column) => (column === row ? -1 : count));
        const target = at.length && at.every((one) => one !== undefined) ? at : inRow ? [row, inRow.indexOf(Math.max(...inRow))] : null;
        if (!target) return;
        mark(target);
        isChosen = true;
        becomeTabStop(target);
        tell(target);
        show();
      },
    };
  };
})();
