/* From strokes and pictures to images like those of a data set.

A drawn image is an array of ink, 0 for background and 1 for full strength, row by row. A style describes how the shapes
of the data set are drawn: {background, box, center, at, stroke}, measured by the hook `live` and in pixels of the data.
A stroke is {points: [[x, y], …], radius, isEraser}, in shares of the image's width and height (of its width: radius).
*/
{
  const FAINT = 0.04; // less is background; as in the hook
  const CELLS = 8; // cells per pixel and axis with which strokes are drawn

  /* Resample rows × columns by averaging areas, exactly, also where the new pixels cut old ones. */
  const area = (values, [height, width], [rows, columns]) => {
    const along = (source, count, size, inner, outer) => {
      // source: (outer, count, inner); returns (outer, size, inner)
      const result = new Float32Array(outer * size * inner);
      for (let cell = 0; cell < size; cell += 1) {
        const [from, to] = [cell * count / size, (cell + 1) * count / size];
        for (let old = Math.floor(from); old < Math.min(count, Math.ceil(to)); old += 1) {
          const share = (Math.min(to, old + 1) - Math.max(from, old)) / (to - from);
          if (share <= 0) continue;
          for (let block = 0; block < outer; block += 1) for (let n = 0; n < inner; n += 1) {
            result[(block * size + cell) * inner + n] += share * source[(block * count + old) * inner + n];
          }
        }
      }
      return result;
    };
    return along(along(values, height, rows, width, 1), width, columns, 1, rows);
  };

  /* Return the bounding box [top, bottom, left, right] of what is not background; null if there is nothing. */
  const bounds = (ink, [height, width]) => {
    let [top, bottom, left, right] = [height, -1, width, -1];
    for (let row = 0; row < height; row += 1) for (let column = 0; column < width; column += 1) {
      if (ink[row * width + column] <= FAINT) continue;
      top = Math.min(top, row);
      bottom = row;
      left = Math.min(left, column);
      right = Math.max(right, column);
    }
    return bottom < 0 ? null : [top, bottom, left, right];
  };

  /* Scale ink so that the longer side of its bounding box is style.box, and move it, by whole pixels, so that its center
     (of mass, or of the box) lies where the data has it: for MNIST, 20 pixels, around the center of mass. Returns ink of
     the size `target`. */
  const centered = (ink, size, target, style) => {
    const result = new Float32Array(target[0] * target[1]);
    const box = bounds(ink, size);
    if (!box) return result;
    const [top, bottom, left, right] = box;
    const cut = [bottom - top + 1, right - left + 1];
    const cropped = new Float32Array(cut[0] * cut[1]);
    for (let row = 0; row < cut[0]; row += 1) {
      for (let column = 0; column < cut[1]; column += 1) {
        cropped[row * cut[1] + column] = ink[(top + row) * size[1] + left + column];
      }
    }
    const scale = style.box / Math.max(...cut);
    const [rows, columns] = cut.map((side) => Math.max(1, Math.round(side * scale)));
    const scaled = area(cropped, cut, [rows, columns]);
    let center = [(rows - 1) / 2, (columns - 1) / 2];
    if (style.center === "mass") {
      const sums = [0, 0, 0];
      scaled.forEach((value, pixel) => {
        sums[0] += value * Math.floor(pixel / columns);
        sums[1] += value * (pixel % columns);
        sums[2] += value;
      });
      center = [sums[0] / sums[2], sums[1] / sums[2]];
    }
    const inside = (shift, room) => Math.max(Math.min(0, room), Math.min(Math.max(0, room), shift)); // nothing is cut off
    const [down, across] = center.map((place, axis) => inside(Math.round(style.at[axis] - place), target[axis] - [rows, columns][axis]));
    for (let row = 0; row < rows; row += 1) for (let column = 0; column < columns; column += 1) {
      const [y, x] = [row + down, column + across];
      if (y >= 0 && y < target[0] && x >= 0 && x < target[1]) result[y * target[1] + x] = scaled[row * columns + column];
    }
    return result;
  };

  /* Set the cells within `radius` of the line from a to b; coordinates are in cells. */
  const line = (cells, [height, width], a, b, radius, value) => {
    const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
    const length = dx * dx + dy * dy;
    const range = (one, other, limit) => [
      Math.max(0, Math.floor(Math.min(one, other) - radius)), Math.min(limit - 1, Math.ceil(Math.max(one, other) + radius))];
    const [top, bottom] = range(a[1], b[1], height);
    const [left, right] = range(a[0], b[0], width);
    for (let row = top; row <= bottom; row += 1) for (let column = left; column <= right; column += 1) {
      const [x, y] = [column + 0.5 - a[0], row + 0.5 - a[1]];
      const along = length ? Math.max(0, Math.min(1, (x * dx + y * dy) / length)) : 0;
      if ((x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius * radius) cells[row * width + column] = value;
    }
  };

  const trace = (cells, size, stroke, place, radius) => {
    const points = stroke.points.map(place);
    points.forEach((point, number) => line(cells, size, points[Math.max(0, number - 1)], point, radius, stroke.isEraser ? 0 : 1));
  };

  /* Turn strokes into ink like that of the data: scaled to its box, with its thickness whatever the brush, centered. */
  const drawn = (strokes, target, style) => {
    const points = strokes.filter((stroke) => !stroke.isEraser)
      .flatMap((stroke) => stroke.points.map(([x, y]) => [x * target[1], y * target[0]]));
    if (!points.length) return new Float32Array(target[0] * target[1]);
    const extreme = (choose) => [0, 1].map((axis) => points.reduce((best, point) => choose(best, point[axis]), points[0][axis]));
    const [low, high] = [extreme(Math.min), extreme(Math.max)];
    const extent = Math.max(high[0] - low[0], high[1] - low[1]);
    const thickness = Math.min(style.stroke, style.box);
    // at most four times as large: a dot stays a dot
    const scale = Math.min(4, extent ? (style.box - thickness) / extent : 1);
    const size = [1, 0].map((axis) => Math.ceil(((high[axis] - low[axis]) * scale + thickness) * CELLS));
    const cells = new Float32Array(size[0] * size[1]);
    const place = ([x, y]) => [
      ((x * target[1] - low[0]) * scale + thickness / 2) * CELLS, ((y * target[0] - low[1]) * scale + thickness / 2) * CELLS];
    for (const stroke of strokes) {
      trace(cells, size, stroke, place, CELLS * (stroke.isEraser ? stroke.radius * target[1] * scale : thickness / 2));
    }
    const box = bounds(cells, size);
    if (!box) return new Float32Array(target[0] * target[1]);
    return centered(cells, size, target, { ...style, box: Math.max(box[1] - box[0] + 1, box[3] - box[2] + 1) / CELLS });
  };

  /* Return the share of each pixel that strokes cover, in place: {ink, erased}, each of the size `target`. */
  const covered = (strokes, target) => {
    const size = target.map((side) => side * CELLS);
    const [ink, erased] = [new Float32Array(size[0] * size[1]), new Float32Array(size[0] * size[1])];
    const place = ([x, y]) => [x * size[1], y * size[0]];
    for (const stroke of strokes) {
      trace(ink, size, stroke, place, stroke.radius * size[1]);
      trace(erased, size, { ...stroke, isEraser: !stroke.isEraser }, place, stroke.radius * size[1]);
    }
    return { ink: area(ink, size, target), erased: area(erased, size, target) };
  };

  /* Turn a gray picture with a plain background into ink: its distance from the background, stretched to 1 and without
     the noise of cameras and paper. `isBright`: the background is the bright end. */
  const inkOf = (gray, size, isBright) => {
    const ground = borderLevel(gray, size);
    const ink = gray.map((value) => Math.max(0, isBright ? ground - value : value - ground));
    const most = ink.reduce((largest, value) => Math.max(largest, value), 0);
    return most < 0.1 ? ink.fill(0) : ink.map((value) => Math.min(1, Math.max(0, (value / most - 0.25) / 0.5)));
  };

  /* Return the median of the border. */
  const borderLevel = (gray, [height, width]) => {
    const edge = [];
    for (let x = 0; x < width; x += 1) edge.push(gray[x], gray[(height - 1) * width + x]);
    for (let y = 0; y < height; y += 1) edge.push(gray[y * width], gray[y * width + width - 1]);
    return edge.sort((a, b) => a - b)[edge.length >> 1];
  };

  pellucid.strokes = { area, bounds, centered, drawn, covered, inkOf, borderLevel };
}
