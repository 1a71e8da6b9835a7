/* Numbers, pixels and signed maps, shared by the sections. */

/* Format a number with `count` significant digits and a true minus sign. */
pellucid.digits = (value, count = 3) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-4 || size >= 1e6 ? size.toExponential(count - 1) : size.toPrecision(count);
  return (value < 0 ? "−" : "") + text;
};

/* Format a number with its sign. */
pellucid.signed = (value) => (value > 0 ? `+${pellucid.digits(value)}` : pellucid.digits(value));

/* Format a share as a percentage; null (not a number) as a dash. */
pellucid.percent = (share) => {
  if (share === null || Number.isNaN(share)) return "–";
  if (share > 0 && share < 0.0005) return "< 0.1%";
  if (share >= 0.9995 && share < 1) return "> 99.9%"; // 100% would claim too much
  return `${(100 * share).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })}%`;
};

/* Format a share as a percentage within a sentence. */
pellucid.percentInWords = (share) => pellucid.percent(share).replace("< ", "below ").replace("> ", "above ");

/* Format a count with its noun, as in "1 image" or "1,234 images". */
pellucid.many = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

/* Decompress bytes (zlib, base64) exactly; a picture won't do, since some browsers perturb its pixels against
   fingerprinting. */
pellucid.unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

pellucid.STEPS = 127; // palette steps on each side of zero

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
/* Zero, then ever stronger values, in dark mode: a map is as dark as the page where nothing matters. */
const DARK = {
  for: [[38, 44, 49], [88, 42, 40], [164, 58, 46], [240, 118, 78], [255, 216, 186]],
  against: [[38, 44, 49], [34, 58, 90], [38, 92, 158], [74, 156, 230], [192, 228, 255]],
};

const mixed = (stops, share) => {
  const at = share * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, channel) => Math.round(value + (at - low) * (stops[low + 1][channel] - value)));
};

/* Return the signed palette as 255 triples for −127…127: blue, neutral, red. The neutral color is near-white, or
   near-black in dark mode. */
pellucid.colours = () => {
  pellucid.tables ??= palettes();
  return pellucid.tables[darkScheme.matches ? "dark" : "light"];
};

const palettes = () => {
  const steps = Array.from({ length: 2 * pellucid.STEPS + 1 }, (_, step) => step - pellucid.STEPS);
  return {
    light: steps.map((step) => [0, 2, 4].map((digit) => {
      const start = 6 * (step + pellucid.STEPS) + digit;
      return parseInt(pellucid.palette.slice(start, start + 2), 16);
    })),
    dark: steps.map((step) => mixed(step < 0 ? DARK.against : DARK.for, Math.abs(step) / pellucid.STEPS)),
  };
};

/* Call a function when the page changes between light and dark, to paint its maps again. */
pellucid.onScheme = (repaint) => darkScheme.addEventListener("change", repaint);

/* Paint a canvas of height × width, with a function from the pixel's index to [red, green, blue, alpha]. */
pellucid.paint = (canvas, [height, width], colourOf) => {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel += 1) picture.data.set(colourOf(pixel), 4 * pixel);
  context.putImageData(picture, 0, 0);
};

/* Paint signed values: red for, blue against; `factor` turns a value into palette steps, clipped at ±127. */
pellucid.paintSigned = (canvas, size, values, factor = 1) => {
  const [table, steps] = [pellucid.colours(), pellucid.STEPS];
  pellucid.paint(canvas, size, (pixel) => {
    const step = Math.max(-steps, Math.min(steps, Math.round(values[pixel] * factor)));
    return [...table[step + steps], 255];
  });
};

/* Paint an image of bytes (height × width × channels), gray or color. */
pellucid.paintImage = (canvas, size, channels, bytes) => {
  pellucid.paint(canvas, size, (pixel) => {
    const [red, green = red, blue = red] = bytes.subarray(pixel * channels, (pixel + 1) * channels);
    return [red, green, blue, 255];
  });
};

/* Return the contour of a shape on a uniform background, as an SVG to lay over a map; null for other images.

   The contour separates pixels nearer to the background from those nearer to the strongest contrast, and crosses the
   line between the centers of two pixels where their interpolated value is in the middle ("marching squares"). */
pellucid.outline = ([height, width], channels, bytes) => {
  if (channels !== 1 || height * width > 128 * 128) return null;
  const edge = [];
  for (let x = 0; x < width; x += 1) edge.push(bytes[x], bytes[(height - 1) * width + x]);
  for (let y = 0; y < height; y += 1) edge.push(bytes[y * width], bytes[y * width + width - 1]);
  edge.sort((a, b) => a - b);
  const ground = edge[edge.length >> 1];
  // a photograph has no uniform border
  if (edge.filter((value) => Math.abs(value - ground) > 16).length > 0.2 * edge.length) return null;
  let most = 0;
  for (let pixel = 0; pixel < height * width; pixel += 1) most = Math.max(most, Math.abs(bytes[pixel] - ground));
  if (most < 48) return null; // noise
  const middle = most / 2;
  const contrast = (y, x) => (y >= 0 && y < height && x >= 0 && x < width ? Math.abs(bytes[y * width + x] - ground) : 0);
  const place = (value) => String(Math.round(100 * value) / 100);
  let path = "";
  for (let y = -1; y < height; y += 1) {
    for (let x = -1; x < width; x += 1) {
      // corners of a square between four pixel centers, clockwise
      const corners = [[y, x], [y, x + 1], [y + 1, x + 1], [y + 1, x]].map(([row, column]) => ({ row, column, value: contrast(row, column) }));
      const crossings = [];
      for (let side = 0; side < 4; side += 1) {
        const [from, to] = [corners[side], corners[(side + 1) % 4]];
        if (from.value >= middle === to.value >= middle) continue;
        const share = (middle - from.value) / (to.value - from.value);
        crossings.push(`${place(from.column + 0.5 + share * (to.column - from.column))} ${place(from.row + 0.5 + share * (to.row - from.row))}`);
      }
      for (let end = 0; end < crossings.length; end += 2) path += `M${crossings[end]}L${crossings[end + 1]}`;
    }
  }
  return pellucid.drawn("svg", { class: "outline", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    pellucid.drawn("path", { d: path }));
};

/* Load a picture ahead of time and decode it synchronously, so that epochs follow each other without flicker. */
pellucid.picture = (uri) => {
  const made = new Image();
  made.decoding = "sync";
  made.src = uri;
  return made;
};

/* Create a canvas with one square tile of a sprite image with `across` tiles per row; drawn once the image is loaded. */
pellucid.tile = (sheet, number, side, across, label) => {
  const canvas = pellucid.element("canvas", { class: "tile pixels", width: side, height: side, role: "img", "aria-label": label });
  const draw = () => canvas.getContext("2d").drawImage(
    sheet, (number % across) * side, Math.floor(number / across) * side, side, side, 0, 0, side, side);
  if (sheet.complete && sheet.naturalWidth) draw();
  else sheet.addEventListener("load", draw, { once: true });
  return canvas;
};
