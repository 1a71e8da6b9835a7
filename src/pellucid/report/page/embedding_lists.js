/* Lists beside the embedding: search results, nearest neighbors and the table of errors.

Each is made of a `plot`: {indices, labels, name(label), dot(row), pictures, mark(rows), choose(row, isPinned)}, where a
row is the position of an image in `indices`.
*/
{
  const FEW = 24; // search results shown at first
  const MANY = 40; // errors in the table at first: thousands of rows would delay the page
  const SHORT = 16; // characters of a class name below a thumbnail
  const MOST_CLASSES = 4; // classes of neighbors that are named
  const NO_ERROR = "No errors.";

  const outcome = (plot, { label, prediction }, write = (name) => name) =>
    [...new Set([label, prediction])].map((one) => write(plot.name(one))).join(" → ");

  const short = (text) => (text.length > SHORT ? `${text.slice(0, SHORT - 1)}…` : text);

  /* A thumbnail that opens the image in "explain" and marks its dot while it has the pointer or the focus. */
  const tile = (plot, page, row) => {
    const dot = plot.dot(row);
    const text = outcome(plot, dot);
    const label = `Explain test image ${dot.index}: ${text}`;
    const made = page.opener(dot.index, { "aria-label": label, title: label },
      ...[plot.pictures.canvas(dot.index, { "aria-hidden": "true" })].filter(Boolean),
      page.element("span", dot.label === dot.prediction ? {} : { class: "wrong" }, outcome(plot, dot, short)),
      page.element("small", {}, String(dot.index)));
    // a span, on pages without "explain", has no role that could carry a label
    if (made.tagName === "SPAN") {
      made.removeAttribute("aria-label");
      made.title = `Test image ${dot.index}: ${text}`;
    }
    for (const [event, rows] of [["pointerenter", [row]], ["focus", [row]], ["pointerleave", []], ["blur", []]]) {
      made.addEventListener(event, () => plot.mark(rows));
    }
    return page.element("li", {}, made);
  };

  /* Fill the results of a search: `found` is {words, rows, of}, {problem} or null. */
  const showResults = (element, plot, page) => {
    const [status, list, more] = [".found", ".tiles", ".more"].map((name) => element.querySelector(name));
    let rows = [];
    list.tabIndex = -1; // takes the focus where tiles are no links
    const extend = (to) => {
      list.append(...rows.slice(list.children.length, to).map((row) => tile(plot, page, row)));
      more.hidden = rows.length <= to;
      more.textContent = `Show all ${rows.length.toLocaleString("en")}`;
    };
    more.addEventListener("click", () => {
      const next = list.children.length;
      extend(rows.length);
      (list.children[next]?.querySelector("a") ?? list).focus();
    });
    return (found) => {
      element.hidden = found === null;
      rows = found?.rows ?? [];
      list.replaceChildren();
      if (found === null) return;
      element.classList.toggle("problem", Boolean(found.problem));
      const count = `${rows.length.toLocaleString("en")} of ${page.many(found.of ?? 0, "image")}`;
      status.replaceChildren(...(found.problem ? [found.problem] : [page.element("strong", {}, count), `: ${found.words}`]),
        ...(found.link ? [" ", found.link] : []));
      extend(FEW);
    };
  };

  /* Describe the classes of neighbors, such as "9 (6 images), 4 (2 images)". */
  const classesOf = (plot, page, rows) => {
    const counts = new Map();
    for (const row of rows) counts.set(plot.labels[row], (counts.get(plot.labels[row]) ?? 0) + 1);
    const sorted = [...counts].sort(([, a], [, b]) => b - a);
    const others = sorted.length - MOST_CLASSES;
    return sorted.slice(0, MOST_CLASSES).map(([label, count]) => `${plot.name(label)} (${page.many(count, "image")})`).join(", ")
      + (others > 0 ? ` and ${others} ${others === 1 ? "other" : "others"}` : "");
  };

  /* Fill the nearest neighbors of a pinned dot; `row` is null if none is pinned. */
  const showNeighbors = (element, plot, page) => (row, { rows, areExact }) => {
    const [title, text, list] = ["h3", "p", "ul"].map((name) => element.querySelector(name));
    title.textContent = row === null || areExact ? "Nearest neighbors in the embedding" : "Nearest neighbors in this plane";
    list.replaceChildren(...(row === null ? [] : rows.map((other) => tile(plot, page, other))));
    if (row === null) {
      text.textContent = "Click a dot to see the images that the network finds most similar.";
      return;
    }
    const dot = plot.dot(row);
    const image = `Test image ${dot.index} (${outcome(plot, dot)})`;
    const whose = areExact ? "" : " This run did not store the neighbors in the embedding itself.";
    text.textContent = rows.length ? `${image}. True classes of its ${page.many(rows.length, "nearest neighbor")}: ${classesOf(plot, page, rows)}.${whose}`
      : `${image} has no neighbors.`;
  };

  const errorRow = (plot, page, row) => {
    const { index, label, prediction, confidence, loss } = plot.dot(row);
    const go = page.element("button", { type: "button", "aria-label": `Show test image ${index}` }, String(index));
    go.addEventListener("click", () => plot.choose(row, true));
    const cells = [plot.name(label), plot.name(prediction), Number.isFinite(confidence) ? page.percent(confidence) : "–",
      Number.isFinite(loss) ? page.digits(loss, 2) : "–"].map((text) => page.element("td", {}, text));
    const link = page.opener(index, { "aria-label": `Explain test image ${index}` }, "Explain");
    return page.element("tr", {}, page.element("td", {}, go), ...cells, ...(link.href ? [page.element("td", {}, link)] : []));
  };

  /* Fill the table of errors, which is built only while it is open. */
  const showErrors = (element, plot, page) => {
    const place = element.querySelector(".rows");
    let wrong = [];
    const build = () => {
      if (!element.open) return place.replaceChildren();
      if (!wrong.length) return place.replaceChildren(page.element("p", {}, NO_ERROR));
      const columns = ["Test image", "True class", "Prediction", "Confidence", "Loss", ...("explain" in page.sections ? ["Explanation"] : [])];
      const heads = columns.map((text) => page.element("th", { scope: "col" }, text));
      const body = page.element("tbody", {}, ...wrong.slice(0, MANY).map((row) => errorRow(plot, page, row)));
      const parts = [page.element("table", {}, page.element("thead", {}, page.element("tr", {}, ...heads)), body)];
      if (wrong.length > MANY) {
        const more = page.element("button", { type: "button" }, `Show all ${wrong.length.toLocaleString("en")}`);
        more.addEventListener("click", () => {
          body.append(...wrong.slice(MANY).map((row) => errorRow(plot, page, row)));
          more.remove();
          place.focus({ preventScroll: true });
        });
        parts.push(more);
      }
      return place.replaceChildren(...parts);
    };
    element.addEventListener("toggle", build);
    return (rows) => {
      wrong = rows;
      element.querySelector("summary").textContent = `Table of ${page.many(wrong.length, "error")}`;
      build();
    };
  };

  Object.assign((pellucid.embedding ??= {}), { showResults, showNeighbors, showErrors });
}
