/* Error rates by slice. data: {rows: [{column, value, detail, images, errors, error_rate, low, high, difference, p, verdict,
   examples: [indices of test images]}], images, error_rate, confidence, looks, most, thumbnails}. */
(() => {
  const WIDTH = 180; // of an interval, in units of its SVG
  const HEIGHT = 20;
  const COLUMNS = [
    { name: "slice", from: (row) => `${row.column} = ${row.value}`, isText: true },
    { name: "images", from: (row) => row.images },
    { name: "errors", from: (row) => row.errors },
    { name: "error rate", from: (row) => row.error_rate },
    { name: "difference", from: (row) => row.difference ?? -Infinity },
    { name: "p-value", from: (row) => -row.p },
  ];

  const rate = (value) => `${(100 * value).toFixed(2)}%`;
  const points = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${(100 * Math.abs(value)).toFixed(2)} pp`);
  const chance = (p) => (p < 0.0001 ? "< 0.0001" : p.toFixed(4));
  const many = (value) => value.toLocaleString("en");

  /* Draw an interval on a square-root scale from 0 to the largest end of all. */
  const drawing = (row, data, page) => {
    const x = (value) => 6 + Math.sqrt(value / (data.most || 1)) * (WIDTH - 12);
    const middle = HEIGHT / 2;
    return page.drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" },
      page.drawn("path", { class: "overall", d: `M${x(Math.min(data.error_rate, data.most))} 0V${HEIGHT}` }),
      page.drawn("path", { class: "interval", d: `M${x(row.low)} ${middle}H${x(row.high)}` }),
      page.drawn("circle", { class: "rate", cx: x(row.error_rate), cy: middle, r: 4 }));
  };

  const line = (row, data, pictures, page) => {
    const heading = page.element("th", { scope: "row" }, `${row.column} = ${row.value}`);
    if (row.detail) heading.append(page.element("small", {}, row.detail));
    const images = row.examples.map((index) => {
      const picture = pictures.canvas(index, { role: "img", "aria-label": `Test image ${index}` });
      return picture && page.opener(index, {}, picture);
    }).filter(Boolean);
    const cell = (...content) => page.element("td", {}, ...content);
    const said = row.verdict && page.element("small", { class: "said" }, row.verdict === "worse" ? "more errors" : "fewer errors");
    return page.element("tr", { class: row.verdict }, heading, cell(many(row.images)), cell(many(row.errors)),
      cell(page.element("b", {}, rate(row.error_rate)), page.element("small", {}, `${rate(row.low)} … ${rate(row.high)}`)),
      cell(drawing(row, data, page)), cell(points(row.difference)), cell(chance(row.p), ...(said ? [said] : [])),
      cell(page.element("div", { class: "examples" }, ...images)));
  };

  pellucid.kinds.slices = (root, data, page) => {
    const pictures = page.thumbnails(data.thumbnails);
    const rows = data.rows.map((row) => ({ row, made: line(row, data, pictures, page) }));
    const body = page.element("tbody", {}, ...rows.map(({ made }) => made));
    const status = root.querySelector(".summary");

    /* Sort by a column, largest first; a second click restores the original order. */
    const sort = ({ name, from, isText }, heading) => {
      const again = heading.getAttribute("aria-sort") !== "none";
      for (const other of heading.parentElement.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
      const order = (a, b) => (isText ? from(a.row).localeCompare(from(b.row), "en", { numeric: true })
        : (from(a.row) === from(b.row) ? 0 : from(b.row) - from(a.row)));
      body.append(...(again ? rows : [...rows].sort(order)).map(({ made }) => made));
      if (!again) heading.setAttribute("aria-sort", isText || name === "p-value" ? "ascending" : "descending");
      status.textContent = again ? "Original order." : `Sorted by ${name}.`;
    };
    const headings = COLUMNS.map((column) => {
      const button = page.element("button", { type: "button", class: "sort" }, column.name);
      const heading = page.element("th", { scope: "col", "aria-sort": "none" }, button);
      button.addEventListener("click", () => sort(column, heading));
      return heading;
    });
    const overall = page.element("th", { scope: "col" }, "interval", page.element("small", {}, `dashed: all images, ${rate(data.error_rate)}`));
    const images = page.element("th", { scope: "col" }, "examples", page.element("small", {}, "misclassified; central ones of a cluster"));
    root.querySelector("table").append(page.element("thead", {}, page.element("tr", {}, ...headings.slice(0, 4), overall, ...headings.slice(4), images)), body);
    return null;
  };
})();
