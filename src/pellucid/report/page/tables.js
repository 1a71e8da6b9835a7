/* Tables, complete in the markup. data: {tables: [{caption, note, head, rows, is_open, is_matrix}]}; the first cell of a
   row is its heading, and a cell is a text or {text, tone, share}. For paper, all tables are opened. */
pellucid.kinds.tables = (root) => ({
  paint: () => { for (const one of root.querySelectorAll("details")) one.open = true; },
});
