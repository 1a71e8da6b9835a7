/* Difference of two confusion matrices. data: {names, classes, pairs: [{second, chosen: [classes], first: counts, other: counts}]}. */
(() => {
  const STRONGEST = 45; // percent of the color, so that text on it stays readable

  const signed = (count) => (count > 0 ? `+${count.toLocaleString("en")}` : count.toLocaleString("en").replace("-", "−"));

  pellucid.kinds.compare_confusion = (root, data, page) => {
    const { names, pairs } = data;
    const [table, status] = [root.querySelector("table"), root.querySelector(".summary")];

    const show = (position) => {
      const pair = pairs[position];
      const classes = pair.chosen.map((number) => data.classes[number]);
      const change = pair.first.map((line, row) => line.map((count, column) => count - pair.other[row][column]));
      // correct images and errors have scales of their own: there are many more correct ones
      const largest = (isDiagonal) => Math.max(1, ...change.flatMap((line, row) =>
        line.filter((_, column) => (row === column) === isDiagonal).map(Math.abs)));
      const limits = { true: largest(true), false: largest(false) };
      const cells = change.map((line, row) => line.map((count, column) => {
        const cell = page.element("td", { class: `${count > 0 ? "up" : count < 0 ? "down" : "none"}${row === column ? " diagonal" : ""}` },
          count ? signed(count) : "·");
        cell.style.setProperty("--share", `${(STRONGEST * Math.sqrt(Math.abs(count) / limits[row === column])).toFixed(0)}%`);
        return cell;
      }));
      const head = (name) => page.element("th", { scope: "col", title: name }, name);
      table.replaceChildren(
        page.element("thead", {}, page.element("tr", {}, page.element("td", {}, ""), ...classes.map(head))),
        page.element("tbody", {}, ...cells.map((line, row) => page.element("tr", {},
          page.element("th", { scope: "row", title: classes[row] }, classes[row]), ...line))));
      const errors = (counts) => counts.reduce((sum, line, row) => sum + line.reduce((all, count, column) => all + (row === column ? 0 : count), 0), 0);
      const tell = (at) => {
        if (!at) {
          status.textContent = `Errors: ${errors(pair.first).toLocaleString("en")} by ${names[0]}, ${errors(pair.other).toLocaleString("en")} by ${names[pair.second]}. Point at a cell for its counts.`;
          return;
        }
        const [row, column] = at;
        const outcome = row === column ? "correct" : `predicted as ${classes[column]}`;
        status.textContent = `${classes[row]} ${outcome}: ${page.many(pair.first[row][column], "image")} by ${names[0]}, ${pair.other[row][column].toLocaleString("en")} by ${names[pair.second]} (${signed(change[row][column])}).`;
      };
      page.walkGrid(table, cells, tell);
      tell(null);
    };
    page.choosePair(root, names, pairs, show);
    return null;
  };
})();
