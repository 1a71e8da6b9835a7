/* Difference of two confusion matrices. data: {names, classes, pairs: [{second, chosen: [classes], first: counts, other: counts}]}.
   Also `pellucid.walkGrid`, which lets the reader walk through the cells of a table. */
(() => {
  const STRONGEST = 45; // percent of the color, so that text on it stays readable

  const walks = new WeakMap(); // by table: {cells, places, focused, tell}

  const focus = (walk, [row, column]) => {
    walk.cells[walk.focused[0]][walk.focused[1]].tabIndex = -1;
    walk.focused = [row, column];
    walk.cells[row][column].tabIndex = 0;
    walk.cells[row][column].focus();
  };

  const listen = (table, walk) => {
    const place = (event) => walk.places.get(event.target.closest("td"));
    const tell = (event) => { if (place(event)) walk.tell(place(event)); };
    table.addEventListener("pointerover", tell);
    table.addEventListener("focusin", tell);
    table.addEventListener("pointerleave", () => { if (!table.contains(document.activeElement)) walk.tell(null); });
    table.addEventListener("click", (event) => { if (place(event)) focus(walk, place(event)); });
    table.addEventListener("keydown", (event) => {
      const [row, column] = place(event) ?? [];
      if (row === undefined) return;
      const [bottom, right] = [walk.cells.length - 1, walk.cells[0].length - 1];
      const to = { ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1],
        ArrowRight: [row, column + 1], Home: [row, 0], End: [row, right] }[event.key];
      if (!to) return;
      event.preventDefault();
      focus(walk, [Math.min(Math.max(to[0], 0), bottom), Math.min(Math.max(to[1], 0), right)]);
    });
  };

  /* Make the cells of a table, by row and column, reachable by pointer, touch and arrow keys; `tell` is called with the
     position of the cell, or with null once the pointer has left. Called again, it replaces the cells. */
  pellucid.walkGrid = (table, cells, tell) => {
    const isNew = !walks.has(table);
    const walk = walks.get(table) ?? {};
    const places = new Map(cells.flatMap((line, row) => line.map((cell, column) => [cell, [row, column]])));
    Object.assign(walk, { cells, places, focused: [0, 0], tell });
    for (const cell of cells.flat()) cell.tabIndex = -1;
    cells[0][0].tabIndex = 0;
    walks.set(table, walk);
    if (isNew) listen(table, walk);
  };

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
