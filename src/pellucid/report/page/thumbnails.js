/* Thumbnails of test images. data: {indices, side, channels, size: [height, width] or null, bytes}, or null without any.

Thumbnails are squares: images that are padded to a square and, unless `size` is given, possibly downsampled. Where
`size` is given, they hold the exact pixels of the images.
*/
pellucid.thumbnails = (data) => {
  const rows = new Map((data?.indices ?? []).map((index, row) => [index, row]));
  let unpacking = null; // started on first use
  const unpacked = () => (unpacking ??= pellucid.unpack(data.bytes));

  const square = async (row) => {
    const length = data.side * data.side * data.channels;
    return (await unpacked()).subarray(row * length, (row + 1) * length);
  };

  /* Paint a canvas with a test image, as soon as it is unpacked. */
  const paint = async (canvas, index) => {
    pellucid.paintImage(canvas, [data.side, data.side], data.channels, await square(rows.get(index)));
    canvas.dataset.painted = "";
  };

  /* Create a canvas with a test image; null if there is no such thumbnail. */
  const canvas = (index, attributes = {}) => {
    if (!rows.has(index)) return null;
    const made = pellucid.element("canvas", { width: data.side, height: data.side, ...attributes, class: `pixels ${attributes.class ?? ""}`.trim() });
    paint(made, index);
    return made;
  };

  /* Return the pixels of a test image without its padding: {index, size, channels, bytes, isExact}, or null. */
  const pixels = async (index) => {
    if (!rows.has(index)) return null;
    const { side, channels } = data;
    const all = await square(rows.get(index));
    const [height, width] = data.size ?? [side, side];
    const [top, left] = [height, width].map((length) => (side - length) >> 1);
    const bytes = new Uint8Array(height * width * channels);
    for (let y = 0; y < height; y += 1) {
      const start = ((top + y) * side + left) * channels;
      bytes.set(all.subarray(start, start + width * channels), y * width * channels);
    }
    return { index, size: [height, width], channels, bytes, isExact: data.size !== null };
  };

  return { has: (index) => rows.has(index), canvas, pixels };
};
