/* A map over its image in gray. */

/* Paint an image in gray with low contrast, so that colors on top stay readable. */
pellucid.paintFaint = (canvas, { size, channels, bytes }, page) => {
  page.paint(canvas, size, (pixel) => {
    const part = bytes.subarray(pixel * channels, (pixel + 1) * channels);
    const gray = 70 + 0.6 * (channels === 1 ? part[0] : 0.299 * part[0] + 0.587 * part[1] + 0.114 * part[2]);
    return [gray, gray, gray, 255];
  });
};

/* Paint a map in two strong colors, whose opacity shows the value. */
pellucid.paintOver = (canvas, map, limit, page) => {
  const [table, factor] = [page.colours(), map.unit / limit * page.STEPS];
  const [against, before] = [table[page.STEPS - 100], table[page.STEPS + 100]];
  page.paint(canvas, map.size, (pixel) => {
    const value = Math.max(-page.STEPS, Math.min(page.STEPS, Math.round(map.values[pixel] * factor)));
    return [...(value < 0 ? against : before), 255 * Math.abs(value) / page.STEPS];
  });
};
