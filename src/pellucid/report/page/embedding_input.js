/* Pointer, wheel and keyboard of the embedding. */
{
  const REACH = 22; // CSS pixels from a dot within which the pointer selects it

  /* Let the reader select dots, zoom and pan; for a plane as in `painter`, with {everyRow, place, draw, choose}. */
  const listen = (root, plane) => {
    const { canvas } = plane;
    const { PAD } = pellucid.embedding;

    /* --- pointer -------------------------------------------------------------------------------------------- */

    const nearest = (event) => {
      const box = canvas.getBoundingClientRect();
      let [best, shortest] = [null, REACH];
      for (let row = 0; row < plane.moves.count; row += 1) {
        if (!plane.isChosen(row)) continue;
        const [x, y] = plane.place(row);
        const distance = Math.hypot(x - (event.clientX - box.left), y - (event.clientY - box.top));
        if (distance < shortest) [best, shortest] = [row, distance];
      }
      return best;
    };

    let held = null; // position where the pointer went down, and whether it has dragged the plane since
    canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, y: event.clientY, dragged: false };
      // a drag may leave the canvas
      if (plane.looking.view.scale > 1) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (held && plane.looking.view.scale > 1) {
        const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
        // the pointer may move by a few pixels during a click
        if (!held.dragged && Math.hypot(dx, dy) < 5) return;
        const width = (plane.side - 2 * PAD) * plane.looking.view.scale;
        plane.looking.shift(dx / width, dy / width);
        held = { x: event.clientX, y: event.clientY, dragged: true };
        plane.draw();
      } else if (!plane.chosen.pinned && event.pointerType === "mouse") plane.choose(nearest(event));
    });
    canvas.addEventListener("pointerup", (event) => {
      const row = nearest(event);
      if (held && !held.dragged) plane.choose(row, row !== null && !(plane.chosen.pinned && row === plane.chosen.row));
      held = null;
    });
    canvas.addEventListener("pointercancel", () => { held = null; });
    canvas.addEventListener("pointerleave", () => { if (!plane.chosen.pinned && !held) plane.choose(null); });

    const enlarge = (factor, around) => {
      plane.looking.zoom(factor, around);
      // touches drag a magnified plane, and otherwise scroll the page
      canvas.style.touchAction = plane.looking.view.scale > 1 ? "none" : "pan-y";
      root.querySelector('[data-zoom="0"]').disabled = plane.looking.view.scale === 1;
      plane.draw();
    };
    // not passive, because preventDefault has no effect in a passive listener
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return; // let the page scroll
      event.preventDefault();
      const { scale, x, y } = plane.looking.view;
      const box = canvas.getBoundingClientRect();
      const width = (plane.side - 2 * PAD) * scale;
      const around = [x + (event.clientX - box.left - plane.side / 2) / width, y + (event.clientY - box.top - plane.side / 2) / width];
      enlarge(Math.exp(-event.deltaY / 400), around);
    }, { passive: false });
    for (const button of root.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => enlarge(Number(button.dataset.zoom)));
    }

    /* --- keyboard ------------------------------------------------------------------------------------------- */

    const candidates = () => plane.everyRow.filter(plane.isChosen);

    /* Return the next dot in a direction; sideways distance counts three times, to prefer dots straight ahead. */
    const ahead = (dx, dy) => {
      const rows = candidates();
      const start = plane.chosen.row ?? null;
      const [x, y] = start === null ? [plane.side / 2, plane.side / 2] : plane.place(start);
      let [best, least] = [start ?? rows[0] ?? null, Infinity];
      for (const row of rows) {
        if (row === start) continue;
        const [right, down] = [plane.place(row)[0] - x, plane.place(row)[1] - y];
        const [along, aside] = [right * dx + down * dy, Math.abs(right * dy) + Math.abs(down * dx)];
        const cost = start === null ? Math.hypot(right, down) : along + 3 * aside;
        if ((start === null || along > 0.5) && cost < least) [best, least] = [row, cost];
      }
      return best;
    };
    const next = (by) => {
      const rows = candidates();
      const position = rows.indexOf(plane.chosen.row);
      if (position < 0) return rows[by > 0 ? 0 : rows.length - 1] ?? null;
      return rows[(position + by + rows.length) % rows.length];
    };
    const goTo = (row) => {
      if (row !== null) plane.looking.show(plane.moves.to[3 * row], plane.moves.to[3 * row + 1]);
      plane.choose(row, plane.chosen.pinned && row === plane.chosen.row);
    };
    const keys = {
      ArrowLeft: () => goTo(ahead(-1, 0)),
      ArrowRight: () => goTo(ahead(1, 0)),
      ArrowUp: () => goTo(ahead(0, -1)),
      ArrowDown: () => goTo(ahead(0, 1)),
      PageDown: () => goTo(next(1)),
      PageUp: () => goTo(next(-1)),
      Enter: () => plane.choose(plane.chosen.row, !plane.chosen.pinned),
      " ": () => plane.choose(plane.chosen.row, !plane.chosen.pinned),
      Escape: () => plane.choose(null),
      "+": () => enlarge(1.5),
      "-": () => enlarge(1 / 1.5),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });

    enlarge(0);
  };

  Object.assign((pellucid.embedding ??= {}), { listen });
}
