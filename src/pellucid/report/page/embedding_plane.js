/* Positions of the embedding's dots, animated from epoch to epoch, and the visible part of the plane. */
{
  const MORPH = 600; // milliseconds of the transition between epochs
  const ease = (share) => (share < 0.5 ? 2 * share * share : 1 - 2 * (1 - share) ** 2);

  /* Animated positions (0…1) and opacity of each image, as triples (x, y, opacity) in flat arrays. */
  const movement = (data, redraw) => {
    const count = data.images.indices.length;
    const [from, at, to] = [0, 1, 2].map(() => new Float64Array(3 * count));
    let frame = 0;
    const step = (began) => (now) => {
      const share = Math.min(1, Math.max(0, (now - began) / MORPH));
      for (let i = 0; i < at.length; i += 1) at[i] = from[i] + ease(share) * (to[i] - from[i]);
      frame = share < 1 ? requestAnimationFrame(step(began)) : 0;
      redraw(share < 1);
    };
    const towards = (epoch) => {
      const seen = new Set(epoch.rows);
      for (let row = 0; row < count; row += 1) if (!seen.has(row)) to[3 * row + 2] = 0; // fade out in place
      epoch.rows.forEach((row, point) => {
        const place = [epoch.x[point] / data.steps, epoch.y[point] / data.steps, 1];
        to.set(place, 3 * row);
        if (at[3 * row + 2] === 0) at.set([place[0], place[1], 0], 3 * row); // fade in at the new position
      });
    };
    const go = (epoch, isInstant) => {
      cancelAnimationFrame(frame);
      towards(epoch);
      from.set(at);
      if (!isInstant) {
        frame = requestAnimationFrame(step(performance.now()));
        return redraw(true);
      }
      at.set(to);
      return redraw(false);
    };
    return { at, to, count, go };
  };

  /* Visible part of the plane: magnified by `scale` around the center (x, y). */
  const lens = () => {
    const view = { scale: 1, x: 0.5, y: 0.5 };
    const within = () => {
      const half = 0.5 / view.scale;
      view.x = Math.min(1 - half, Math.max(half, view.x));
      view.y = Math.min(1 - half, Math.max(half, view.y));
    };
    const zoom = (factor, [x, y] = [view.x, view.y]) => {
      // a factor of 0 resets the view
      const scale = factor === 0 ? 1 : Math.min(16, Math.max(1, view.scale * factor));
      const ratio = view.scale / scale;
      view.x = x + (view.x - x) * ratio; // keep the point under the pointer fixed
      view.y = y + (view.y - y) * ratio;
      view.scale = scale;
      within();
    };
    const shift = (dx, dy) => { view.x -= dx; view.y -= dy; within(); };
    const show = (x, y) => { // move only if the point is out of sight
      const half = 0.48 / view.scale;
      if (Math.abs(x - view.x) > half || Math.abs(y - view.y) > half) Object.assign(view, { x, y });
      within();
    };
    return { view, zoom, shift, show };
  };

  Object.assign((pellucid.embedding ??= {}), { movement, lens });
}
