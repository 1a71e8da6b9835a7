/* Similarity of the layers of two models. data: {names, pairs: [{second, first_layers, other_layers, values: CKA or null}]}. */
(() => {
  const STRONGEST = 55; // percent of the color, so that text on it stays readable

  pellucid.kinds.compare_layers = (root, data, page) => {
    const { names, pairs } = data;
    const [table, status] = [root.querySelector("table"), root.querySelector(".summary")];
    const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));

    const show = (position) => {
      const { second, first_layers: rows, other_layers: columns, values } = pairs[position];
      const cells = values.map((line) => {
        const most = Math.max(...line.filter((value) => value !== null));
        return line.map((value) => {
          const cell = page.element("td", value === most ? { class: "most" } : {}, number(value));
          cell.style.setProperty("--share", `${(STRONGEST * Math.max(value ?? 0, 0)).toFixed(0)}%`);
          return cell;
        });
      });
      table.replaceChildren(
        page.element("caption", {}, `Rows: layers of ${names[0]}. Columns: layers of ${names[second]}. Bold: most similar in its row.`),
        page.element("thead", {}, page.element("tr", {}, page.element("td", {}, ""),
          ...columns.map((name) => page.element("th", { scope: "col", title: name }, name)))),
        page.element("tbody", {}, ...cells.map((line, row) => page.element("tr", {},
          page.element("th", { scope: "row", title: rows[row] }, rows[row]), ...line))));
      const tell = (at) => {
        status.textContent = at
          ? `${rows[at[0]]} of ${names[0]} and ${columns[at[1]]} of ${names[second]}: CKA ${number(values[at[0]][at[1]], 3)}.`
          : "Point at a cell for the names of its layers.";
      };
      page.walkGrid(table, cells, tell);
      tell(null);
    };
    page.choosePair(root, names, pairs, show);
    return null;
  };
})();
