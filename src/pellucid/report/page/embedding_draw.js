/* Drawing of the embedding's dots, rings, lines and class names. */
{
  const PAD = 20; // CSS pixels at the edges, room for the rings of dots there
  const DIM = 0.1; // opacity of dots that are filtered out

  const disc = (context, x, y, radius) => {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
  };

  const diamond = (context, x, y, radius) => {
    const reach = 1.5 * radius;
    context.beginPath();
    context.moveTo(x, y - reach);
    for (const [dx, dy] of [[reach, 0], [0, reach], [-reach, 0]]) context.lineTo(x + dx, y + dy);
    context.closePath();
  };

  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

  /* Return {place(row), radius(), draw()} for a plane: {canvas, side, moves, looking, chosen, now, tints, labels, present,
     name(label), isChosen(row), isFiltered(), isDiamond(), neighborsOf(row)}; places are in CSS pixels of the canvas. */
  const painter = (plane) => {
    const context = plane.canvas.getContext("2d");

    const place = (row) => {
      const { scale, x, y } = plane.looking.view;
      const width = plane.side - 2 * PAD;
      return [plane.side / 2 + (plane.moves.at[3 * row] - x) * scale * width, plane.side / 2 + (plane.moves.at[3 * row + 1] - y) * scale * width];
    };
    // dots grow more slowly than distances, so zooming in separates them
    const radius = () => Math.min(9, Math.max(2.2, 0.15 * plane.side / Math.sqrt(plane.moves.count)) * plane.looking.view.scale ** 0.4);

    const drawDots = (rows, alpha) => {
      const size = radius();
      const isDiamond = plane.isDiamond();
      for (const row of rows) {
        context.globalAlpha = plane.moves.at[3 * row + 2] * alpha;
        context.fillStyle = plane.tints.fill[row];
        (plane.now.dots[row] && isDiamond(plane.now.dots[row]) ? diamond : disc)(context, ...place(row), size);
        context.fill();
      }
      context.globalAlpha = 1;
    };

    const drawRing = (row, colour, ink, size) => {
      const [x, y] = place(row);
      context.globalAlpha = plane.moves.at[3 * row + 2];
      for (const [radius, width, stroke] of [[size + 1.3, 0.7, ink], [size, 2, colour]]) {
        disc(context, x, y, radius);
        context.lineWidth = width;
        context.strokeStyle = stroke;
        context.stroke();
      }
      context.globalAlpha = 1;
    };

    const drawLines = (row, others) => {
      context.strokeStyle = plane.tints.ink;
      context.lineWidth = 1;
      context.globalAlpha = 0.55;
      context.beginPath();
      for (const other of others) {
        context.moveTo(...place(row));
        context.lineTo(...place(other));
      }
      context.stroke();
      context.globalAlpha = 1;
    };

    const drawNames = (rows) => {
      if (plane.present.length > 40) return;
      const byLabel = new Map(plane.present.map((label) => [label, []]));
      for (const row of rows) byLabel.get(plane.labels[row]).push(place(row));
      context.font = "700 16px system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.lineJoin = "round";
      for (const [label, places] of byLabel) {
        // a name would hide the few dots that a search finds
        if (places.length < (plane.isFiltered() ? 10 : 3)) continue;
        const [middle, y] = [0, 1].map((axis) => median(places.map((one) => one[axis])));
        const text = plane.name(label).length > 20 ? `${plane.name(label).slice(0, 19)}…` : plane.name(label);
        // a name in sight is not cut off at the edges
        const room = context.measureText(text).width / 2 + 4;
        const x = middle < 0 || middle > plane.side ? middle : Math.max(room, Math.min(plane.side - room, middle));
        context.strokeStyle = plane.tints.card;
        context.lineWidth = 4;
        context.strokeText(text, x, y);
        context.fillStyle = plane.tints.ink;
        context.fillText(text, x, y);
      }
    };

    const draw = () => {
      const dots = plane.side * devicePixelRatio;
      if (!dots) return;
      // setting the size of a canvas resets it, even to the same value
      if (plane.canvas.width !== Math.round(dots)) plane.canvas.width = plane.canvas.height = Math.round(dots);
      // draw in CSS pixels on screens of any resolution
      context.setTransform(plane.canvas.width / plane.side, 0, 0, plane.canvas.height / plane.side, 0, 0);
      context.clearRect(0, 0, plane.side, plane.side);
      const visible = plane.tints.order.filter((row) => plane.moves.at[3 * row + 2] > 0);
      const meant = visible.filter((row) => plane.isChosen(row) || (plane.now.dots[row] === undefined && !plane.isFiltered()));
      const linked = plane.chosen.pinned ? plane.neighborsOf(plane.chosen.row) : [];
      if (plane.isFiltered()) drawDots(visible.filter((row) => !plane.isChosen(row)), DIM);
      drawLines(plane.chosen.row, linked);
      drawDots(meant, 0.85);
      const wrong = meant.filter((row) => plane.tints.ring[row] !== undefined);
      const size = radius() * (wrong.length > 150 ? 1.5 : 2.1); // smaller rings if there are many, so that they don't hide the dots
      for (const row of wrong) drawRing(row, plane.tints.ring[row], plane.tints.ink, size);
      drawNames(meant);
      drawDots(linked, 1);
      for (const row of [...linked, ...plane.chosen.marked]) drawRing(row, plane.tints.accent, plane.tints.card, radius() + 3);
      for (const row of plane.chosen.marked) drawRing(row, plane.tints.accent, plane.tints.card, radius() + 7);
      if (plane.chosen.row !== null) drawRing(plane.chosen.row, plane.tints.accent, plane.tints.card, radius() * 2.1 + 4);
      if (plane.chosen.row !== null) drawDots([plane.chosen.row], 1);
    };

    return { place, radius, draw };
  };

  Object.assign((pellucid.embedding ??= {}), { PAD, painter });
}
