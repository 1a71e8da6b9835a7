/* `pellucid.walkGrid`, which lets the reader walk through the cells of a table. */
(() => {
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
})();
