/* Leaderboard of methods by metrics. data: {images, columns: [{name, asks, is_higher_better}], rows: [{method, is_control, cells:
   [{value, text, interval, verdict, said} or null], curve: {share, most, least} or null}], curve_meaning}. */
(() => {
  const WIDTH = 128;
  const HEIGHT = 42;

  const cell = (content, page) => {
    if (!content) return page.element("td", {}, "–");
    const lines = [page.element("b", {}, content.text), page.element("small", {}, content.interval)];
    if (content.said) lines.push(page.element("small", { class: "said" }, content.said));
    return page.element("td", { class: content.verdict }, ...lines);
  };

  /* Draw both selectivity curves of a method, on a scale shared by all methods. */
  const curve = (lines, [low, high], page) => {
    if (!lines) return page.element("td", {}, "–");
    const up = (value) => HEIGHT - (HEIGHT * (value - low)) / (high - low || 1);
    const path = (values) => `M${values.map((value, index) => `${(lines.share[index] * WIDTH).toFixed(1)} ${up(value).toFixed(1)}`).join("L")}`;
    const ends = ["most", "least"].map((part) => lines[part][lines[part].length >> 1].toFixed(1));
    const label = `with half of the patches removed: ${ends[0]} (most relevant first), ${ends[1]} (least relevant first)`;
    return page.element("td", {}, page.drawn("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
      page.drawn("title", {}, label),
      page.drawn("path", { class: "zero", d: `M0 ${up(0)}H${WIDTH}` }),
      page.drawn("path", { class: "least", d: path(lines.least) }),
      page.drawn("path", { class: "most", d: path(lines.most) })));
  };

  const row = ({ method, cells, curve: lines }, range, page) => {
    const [name, options] = method.split("(");
    const heading = page.element("th", { scope: "row" }, ...name.split(/(?<=_)/).flatMap((part) => [part, page.element("wbr")]));
    if (options) heading.append(page.element("small", {}, options.replace(/\)$/, "").replaceAll("=", " ")));
    const made = page.element("tr", {}, heading, ...cells.map((content) => cell(content, page)));
    if (range) made.append(curve(lines, range, page));
    return made;
  };

  pellucid.kinds.leaderboard = (root, data, page) => {
    const values = data.rows.flatMap(({ curve: lines }) => (lines ? [...lines.most, ...lines.least] : []));
    const range = values.length ? [Math.min(0, ...values), Math.max(0, ...values)] : null;
    const groups = [false, true].map((isControl) => data.rows.filter((one) => one.is_control === isControl))
      .filter((rows) => rows.length);
    const lines = new Map(data.rows.map((one) => [one, row(one, range, page)]));
    const bodies = groups.map((rows) => page.element("tbody", {}, ...rows.map((one) => lines.get(one))));
    const status = root.querySelector(".summary");

    /* Sort by a column, best first, with missing values last; a second click restores the original order. */
    const sort = (column, heading) => {
      const again = heading.getAttribute("aria-sort") !== "none";
      const { name, is_higher_better: higher } = data.columns[column];
      for (const other of heading.parentElement.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
      const rank = (one) => (one.cells[column] ? one.cells[column].value * (higher ? -1 : 1) : Infinity);
      groups.forEach((rows, index) => {
        // two missing values compare as equal, since Infinity − Infinity is NaN
        const ordered = again ? rows : [...rows].sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
        bodies[index].append(...ordered.map((one) => lines.get(one)));
      });
      if (!again) heading.setAttribute("aria-sort", higher ? "descending" : "ascending");
      status.textContent = again ? "Original order." : `Sorted by ${name}, best first.`;
    };
    const headings = data.columns.map(({ name, asks, is_higher_better: higher }, column) => {
      const button = page.element("button", { type: "button", title: asks }, `${name}\u00a0${higher ? "↑" : "↓"}`);
      const heading = page.element("th", { scope: "col", "aria-sort": "none" }, button,
        page.element("small", {}, higher ? "higher is better" : "lower is better"));
      button.addEventListener("click", () => sort(column, heading));
      return heading;
    });
    const head = page.element("tr", {}, page.element("th", { scope: "col" }, "method"), ...headings);
    if (range) {
      head.append(page.element("th", { scope: "col" }, "patches removed",
        page.element("small", {}, "― most, ┄ least relevant first")));
      root.querySelector(".curve-meaning").textContent =
        `Curves: mean ${data.curve_meaning} (${range[0].toFixed(1)} to ${range[1].toFixed(1)}) as more patches are removed. ` +
        "For a good explanation the solid curve drops quickly and the dashed curve stays high.";
    }
    root.querySelector("table").append(page.element("thead", {}, head), ...bodies);
    return null;
  };
})();
