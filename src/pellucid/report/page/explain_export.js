/* Files of the section "explain": a figure, the map alone, and the values of a map. */
{
  const SHARPNESS = 2; // pixels of the file for each pixel of the layout
  const [SIDE, MARGIN, HEAD] = [320, 24, 84];
  const FONT = "system-ui, sans-serif";

  /* Return a canvas with signed values, one pixel for each, in the light palette: a file is for light paper. */
  const painted = (size, values, factor, page) => {
    const canvas = page.element("canvas");
    page.colours(); // fills both tables
    page.paint(canvas, size, (pixel) => {
      const step = Math.max(-page.STEPS, Math.min(page.STEPS, Math.round(values[pixel] * factor)));
      return [...page.tables.light[step + page.STEPS], 255];
    });
    return canvas;
  };
  const paintedMap = (map, limit, page) => painted(map.size, map.values, map.unit / limit * page.STEPS, page);

  const blob = (canvas) => new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });

  /* Draw a canvas into a box, as large as its shape allows, without smoothing; returns the area it covers. */
  const place = (context, canvas, x, y) => {
    const share = SIDE / Math.max(canvas.width, canvas.height);
    const [width, height] = [canvas.width * share, canvas.height * share];
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, x, y, width, height);
    return { x, y, width, height };
  };

  const drawOutline = (context, image, area, page) => {
    const path = page.outline(image.size, image.channels, image.bytes)?.querySelector("path").getAttribute("d");
    if (!path) return;
    context.save();
    context.translate(area.x, area.y);
    context.scale(area.width / image.size[1], area.height / image.size[0]);
    context.strokeStyle = "rgb(85 85 85 / 55%)";
    context.lineWidth = image.size[1] / area.width;
    context.stroke(new Path2D(path));
    context.restore();
  };

  /* Write text that ends with an ellipsis if it is too long. */
  const write = (context, text, x, y, width, font, colour) => {
    context.font = font;
    context.fillStyle = colour;
    let shown = text;
    while (shown.length > 1 && context.measureText(shown).width > width) shown = `${shown.slice(0, -2)}…`;
    context.fillText(shown, x, y);
  };

  const figure = ({ image, map, limit, title, details }, page) => {
    const canvas = page.element("canvas");
    const [width, height] = [2 * SIDE + 3 * MARGIN, HEAD + SIDE + 84];
    [canvas.width, canvas.height] = [width * SHARPNESS, height * SHARPNESS];
    const context = canvas.getContext("2d");
    context.scale(SHARPNESS, SHARPNESS);
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, width, height);
    const across = width - 2 * MARGIN;
    write(context, title, MARGIN, 36, across, `600 18px ${FONT}`, "#1d2327");
    write(context, details, MARGIN, 62, across, `14px ${FONT}`, "#5c666d");
    const picture = page.element("canvas");
    page.paintImage(picture, image.size, image.channels, image.bytes);
    place(context, picture, MARGIN, HEAD);
    const area = place(context, paintedMap(map, limit, page), 2 * MARGIN + SIDE, HEAD);
    drawOutline(context, image, area, page);
    const bar = painted([1, 255], Array.from({ length: 255 }, (_, step) => step - page.STEPS), 1, page);
    const [left, top] = [2 * MARGIN + SIDE, HEAD + SIDE + 20];
    context.drawImage(bar, left, top, SIDE, 14);
    context.textAlign = "left";
    write(context, document.title, MARGIN, top + 12, SIDE, `13px ${FONT}`, "#5c666d");
    write(context, `${page.digits(-limit)} against`, left, top + 34, SIDE / 2, `13px ${FONT}`, "#1d2327");
    context.textAlign = "center";
    write(context, "0", left + SIDE / 2, top + 34, SIDE, `13px ${FONT}`, "#1d2327");
    context.textAlign = "right";
    write(context, `for +${page.digits(limit)}`, left + SIDE, top + 34, SIDE / 2, `13px ${FONT}`, "#1d2327");
    return canvas;
  };

  const stem = ({ image, method, label }) =>
    `${image.title}_${method}_class_${label}`.toLowerCase().replace(/[^a-z0-9.]+/g, "_").slice(0, 120);

  pellucid.explainExport = {
    /* Save the image and the map with title, color bar and scale. */
    picture: async (shown, page) => page.saveFile(`${stem(shown)}.png`, await blob(figure(shown, page))),
    /* Save the map without anything else, enlarged by a whole number. */
    plain: async (shown, page) => {
      const small = paintedMap(shown.map, shown.limit, page);
      const factor = Math.max(1, Math.ceil(2 * SIDE / Math.max(small.width, small.height)));
      const canvas = page.element("canvas", { width: small.width * factor, height: small.height * factor });
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, canvas.width, canvas.height);
      page.saveFile(`${stem(shown)}_map.png`, await blob(canvas));
    },
    /* Save the values of the map as JSON; numbers that are not finite are null. */
    values: (shown, page) => {
      const { image, map, method, label, limit } = shown;
      const [height, width] = map.size;
      const row = (number) => Array.from(map.values.subarray(number * width, (number + 1) * width), (value) => value * map.unit);
      const record = {
        index: image.index, title: image.title, label: image.label, prediction: image.prediction, confidence: image.confidence,
        method, class: label, class_name: page.classes[label] ?? null, logit: shown.logit,
        color_limit: limit, step: map.origin ? null : map.unit,
        expected: map.expected, residual: map.residual, allowed: map.allowed,
        relevance: Array.from({ length: height }, (_, number) => row(number)),
      };
      page.saveFile(`${stem(shown)}.json`, new Blob([JSON.stringify(record)], { type: "application/json" }));
    },
  };
}
