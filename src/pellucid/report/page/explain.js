/* Interactive relevance maps.

data: {palette, size: [height, width], source: {size, channels, bytes}, is_exact, noun, titles, indices, labels (or
none), predictions, targets (or none),
methods, maps: [bytes of (image, class, height, width) int8], scales, limits: (method, image, class),
shared_limits: (method, image), classes, logits, probabilities: (image, class), expected, total, residual:
[(image, class) or null, by method]}. A map's value is scale × number / 127. Bytes are compressed with zlib and encoded in base64.
*/
{
  const STEPS = 127;
  const DECIMALS = { minimumFractionDigits: 1, maximumFractionDigits: 1 };

  /* Decompress bytes exactly; a picture won't do, since some browsers perturb its pixels against fingerprinting. */
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  /* Format a number with `count` significant digits and a true minus sign; `signed` adds a plus. */
  const digits = (value, count = 3) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size < 1e-4 || size >= 1e6 ? size.toExponential(count - 1) : size.toPrecision(count);
    return (value < 0 ? "−" : "") + text;
  };
  const signed = (value) => (value > 0 ? `+${digits(value)}` : digits(value));
  const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1%" : `${(100 * share).toLocaleString("en", DECIMALS)}%`);

  const colours = (text) => Array.from({ length: 2 * STEPS + 1 }, (_, step) =>
    [0, 2, 4].map((digit) => parseInt(text.slice(6 * step + digit, 6 * step + digit + 2), 16)));

  /* Paint a canvas of height × width, with a function from the pixel's index to [red, green, blue, alpha]. */
  const paint = (canvas, [height, width], colourOf) => {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const picture = context.createImageData(width, height);
    for (let pixel = 0; pixel < height * width; pixel += 1) picture.data.set(colourOf(pixel), 4 * pixel);
    context.putImageData(picture, 0, 0);
  };

  pellucid.kinds.explain = (root, data, page) => {
    const find = (selector) => root.querySelector(selector);
    const [height, width] = data.size;
    const table = colours(data.palette);
    const name = (label) => page.classes[label] ?? `class ${label}`;
    const withSum = Math.max(0, data.expected.findIndex((table) => table !== null)); // start with a method that has a conservation check
    const at = { image: 0, method: withSum, position: 0, isShared: false, pixel: null }; // position: index among the image's classes
    let bytes = null;

    const map = (method, position) => {
      const start = (at.image * data.classes[at.image].length + position) * height * width;
      return bytes.maps[method].subarray(start, start + height * width);
    };
    const scale = (method, position) => data.scales[method][at.image][position];
    const limit = (method, position) =>
      (at.isShared ? data.shared_limits[method][at.image] : data.limits[method][at.image][position]);
    const explained = () => data.classes[at.image][at.position];
    const label = (image) => data.labels?.[image] ?? null; // null: unknown
    const wrong = (image) => label(image) !== null && label(image) !== data.predictions[image];
    const noun = data.noun.charAt(0).toUpperCase() + data.noun.slice(1);
    const title = (image) => data.titles[image] || `${noun} ${data.indices[image]}`;
    const probability = (position) => data.probabilities?.[at.image][position] ?? null;
    const sum = (which, position) => data[which][at.method]?.[at.image][position] ?? null;

    /* --- pictures ------------------------------------------------------------------------------------------- */

    const source = (image) => {
      const { size, channels } = data.source;
      const length = size[0] * size[1] * channels;
      return bytes.source.subarray(image * length, (image + 1) * length);
    };
    const paintImage = (canvas, image) => {
      const { size, channels } = data.source;
      const values = source(image);
      paint(canvas, size, (pixel) => {
        const [red, green = red, blue = red] = values.subarray(pixel * channels, (pixel + 1) * channels);
        return [red, green, blue, 255];
      });
    };
    const paintGray = (canvas) => { // light gray with low contrast, so that colors on top stay readable
      const { size, channels } = data.source;
      const values = source(at.image);
      paint(canvas, size, (pixel) => {
        const part = values.subarray(pixel * channels, (pixel + 1) * channels);
        const gray = 70 + 0.6 * (channels === 1 ? part[0] : 0.299 * part[0] + 0.587 * part[1] + 0.114 * part[2]);
        return [gray, gray, gray, 255];
      });
    };
    /* Return a function from a pixel to its palette index, −127…127, clipped at the limit. */
    const painter = (method, position) => {
      const [values, factor] = [map(method, position), scale(method, position) / limit(method, position)];
      return (pixel) => Math.max(-STEPS, Math.min(STEPS, Math.round(values[pixel] * factor)));
    };
    const paintMap = (canvas, method, position) => {
      const step = painter(method, position);
      paint(canvas, data.size, (pixel) => [...table[step(pixel) + STEPS], 255]);
    };
    const paintAbove = (canvas) => {
      const step = painter(at.method, at.position);
      // two strong colors, whose opacity shows the value
      const [against, before] = [table[STEPS - 100], table[STEPS + 100]];
      paint(canvas, data.size, (pixel) => {
        const value = step(pixel);
        return [...(value < 0 ? against : before), 255 * Math.abs(value) / STEPS];
      });
    };
    const paintBar = (canvas) => paint(canvas, [1, 2 * STEPS + 1], (step) => [...table[step], 255]);

    /* Enlarge small images by a whole number, so that all pixels have the same size. */
    const fit = () => {
      for (const figure of root.querySelectorAll(".panels figure")) {
        const wide = figure.clientWidth;
        figure.querySelector(".frame").style.width = `${width <= 64 ? Math.max(1, Math.floor(wide / width)) * width : wide}px`;
      }
    };

    /* --- words ---------------------------------------------------------------------------------------------- */

    const tellAnswer = () => {
      const prediction = name(data.predictions[at.image]);
      const shown = label(at.image) === null ? null : name(label(at.image));
      const text = shown === null ? `is predicted as ${prediction}`
        : wrong(at.image) ? `shows ${shown} and is predicted as ${prediction}` : `shows ${shown} and is classified correctly`;
      const share = probability(at.position);
      const logit = data.logits?.[at.image][at.position] ?? null;
      const of = [share === null ? "" : `probability ${percent(share)}`, logit === null ? "" : `logit ${digits(logit)}`].filter(Boolean);
      const parts = of.length ? [" Class ", page.element("b", {}, name(explained())), ` has ${of.join(" and ")}.`] : [];
      find(".answer").replaceChildren(`${title(at.image)} ${text}.`, ...parts);
      const described = `${title(at.image)}, which ${text}`;
      find(".image canvas").setAttribute("aria-label", described);
      const heatmap = `Relevance of ${height}×${width} pixels for class ${name(explained())} by ${data.methods[at.method]}`;
      find(".map canvas").setAttribute("aria-label", `${heatmap}; ${described}`);
      find(".over .below").setAttribute("aria-label", `${heatmap}, over the image in gray`);
    };

    const tellLimit = () => {
      const end = limit(at.method, at.position);
      const [first, , last] = find(".ends").children;
      first.textContent = digits(-end);
      last.textContent = `+${digits(end)}`;
      const [values, factor] = [map(at.method, at.position), scale(at.method, at.position)];
      // the limits are rounded to six digits
      const beyond = values.reduce((count, value) => count + (Math.abs(value * factor / STEPS) > end * 1.0001), 0);
      const most = values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0) * factor / STEPS;
      const what = `relevance for class ${name(explained())}`;
      const whose = at.isShared
        ? `The color scale, ±${digits(end)}, is shared by all classes of this image and method, so colors are comparable.`
        : `The color scale, ±${digits(end)}, is this map's own, so its colors are not comparable with other maps.`;
      const more = beyond ? ` ${beyond} of ${values.length} pixels exceed the scale, up to ${digits(most)}.` : "";
      const nothing = most === 0 ? " The map is empty: relevance is zero everywhere or not finite." : "";
      find(".limit").textContent = `Red: ${what}; blue: against it. ${whose}${more}${nothing}`;
    };

    const tellCertificate = () => {
      const [expected, total, residual] = ["expected", "total", "residual"].map((which) => sum(which, at.position));
      const method = data.methods[at.method];
      const lines = expected === null ? [["sum", total]] : [["expected sum", expected], ["sum", total], ["residual", residual]];
      find(".verdict").textContent = expected === null
        ? `${method} does not guarantee a sum.`
        : `Relevance of class ${name(explained())} by ${method}; the expected sum excludes what biases, stabilizers and constants absorb:`;
      const known = lines.filter(([, value]) => value !== null);
      find(".certificate dl").replaceChildren(...known.map(([term, value]) => page.element("div", {},
        page.element("dt", {}, term), page.element("dd", {}, digits(value, term === "residual" ? 2 : 5)))));
    };

    const pixelText = (row, column) => {
      const { size: [tall, wide], channels } = data.source;
      const values = source(at.image);
      const [top, bottom] = [Math.floor(row * tall / height), Math.ceil((row + 1) * tall / height)];
      const [left, right] = [Math.floor(column * wide / width), Math.ceil((column + 1) * wide / width)];
      const sums = new Array(channels).fill(0);
      for (let y = top; y < bottom; y += 1) {
        for (let x = left; x < right; x += 1) {
          for (let channel = 0; channel < channels; channel += 1) sums[channel] += values[(y * wide + x) * channels + channel];
        }
      }
      const means = sums.map((total) => Math.round(total / ((bottom - top) * (right - left))));
      const text = channels === 1 ? String(means[0]) : `(${means.join(", ")})`;
      return data.is_exact ? `pixel ${text} of 255` : `mean pixel about ${text} of 255`;
    };

    const tellPixel = () => {
      const marks = root.querySelectorAll(".mark");
      for (const mark of marks) mark.hidden = at.pixel === null;
      if (at.pixel === null) {
        find(".readout").textContent = "";
        return;
      }
      const [row, column] = [Math.floor(at.pixel / width), at.pixel % width];
      for (const mark of marks) {
        const style = { left: column / width, top: row / height, width: 1 / width, height: 1 / height };
        for (const [side, share] of Object.entries(style)) mark.style[side] = `${100 * share}%`;
      }
      const factor = scale(at.method, at.position);
      const value = map(at.method, at.position)[at.pixel] * factor / STEPS;
      const expected = sum("expected", at.position);
      const share = expected ? `, ${(100 * value / expected).toFixed(1).replace("-", "−")}% of the expected sum` : "";
      find(".readout").textContent = `Row ${row}, column ${column}: ${pixelText(row, column)}, relevance ${signed(value)}`
        + ` (in steps of ${digits(factor / STEPS)})${share}.`;
    };

    /* --- choices -------------------------------------------------------------------------------------------- */

    const fillClasses = () => {
      const select = find("select.by-class");
      select.replaceChildren(...order().map((position) => {
        const one = data.classes[at.image][position];
        const share = probability(position) === null ? "" : ` · ${percent(probability(position))}`;
        const marks = roles(one).map((role) => ` · ${role}`).join("");
        return page.element("option", { value: position }, `${name(one)}${share}${marks}`);
      }));
      select.value = at.position;
    };
    const roles = (one) => [["target", data.targets?.[at.image]], ["predicted", data.predictions[at.image]], ["true", label(at.image)]]
      .filter(([, role]) => role === one).map(([text]) => text);
    /* The target first, then the predicted class, the true class, and the others in their original order. */
    const order = () => {
      const rank = (position) => {
        const place = [data.targets?.[at.image], data.predictions[at.image], label(at.image)].indexOf(data.classes[at.image][position]);
        return place < 0 ? 3 : place;
      };
      return data.classes[at.image].map((_, position) => position).sort((a, b) => rank(a) - rank(b) || a - b);
    };

    /* Allow line breaks in method names after underscores and dots. */
    const breakable = (text) => text.split(/(?<=[._])/).flatMap((part, number) => (number ? [page.element("wbr"), part] : [part]));

    const tile = (method, position, isPressed, texts, choose) => {
      const canvas = page.element("canvas", { class: "pixels", "aria-hidden": "true" });
      paintMap(canvas, method, position);
      const button = page.element("button", { type: "button", "aria-pressed": isPressed }, canvas,
        page.element("span", {}, ...texts.filter(Boolean).map((text, line) =>
          page.element("span", line ? { class: "pale" } : {}, ...breakable(text)))));
      button.addEventListener("click", choose);
      return button;
    };
    const refill = (group, buttons) => { // keeps the focus on the button that was just used
      const focused = [...group.children].indexOf(document.activeElement);
      group.replaceChildren(...buttons);
      if (focused >= 0) group.children[focused]?.focus({ preventScroll: true });
    };
    const fillMultiples = () => {
      const scope = at.isShared ? "color scales shared by the image's classes" : "individual color scales";
      find(".of-methods").textContent = `Class ${name(explained())} by every method (${scope})`;
      refill(find(".methods"), data.methods.map((method, number) =>
        tile(number, at.position, number === at.method, [method], () => choose({ method: number }))));
      find(".of-classes").textContent = `Every class by ${data.methods[at.method]} (${at.isShared ? "shared color scale" : "individual color scales"})`;
      refill(find(".classes"), order().map((position) => {
        const one = data.classes[at.image][position];
        const detail = [probability(position) === null ? "" : percent(probability(position)), roles(one).join(", ")];
        return tile(at.method, position, position === at.position, [name(one), ...detail], () => choose({ position }));
      }));
    };

    const show = () => {
      paintImage(find(".image canvas"), at.image);
      paintMap(find(".map canvas"), at.method, at.position);
      paintGray(find(".below"));
      paintAbove(find(".above"));
      find("select.by-method").value = at.method;
      find("select.by-class").value = at.position;
      fillMultiples();
      for (const tell of [tellAnswer, tellLimit, tellCertificate, tellPixel]) tell();
    };
    const choose = (changes) => {
      Object.assign(at, changes);
      if ("image" in changes) {
        [at.position] = order();
        fillClasses();
      }
      show();
    };

    const fillStrip = () => find(".strip .scroll").append(...data.indices.map((index, image) => {
      const canvas = page.element("canvas", { class: "pixels", "aria-hidden": "true" });
      paintImage(canvas, image);
      const taken = name(data.predictions[image]);
      const shown = label(image) === null ? data.titles[image] || taken : name(label(image));
      const spoken = label(image) === null ? `, predicted as ${taken}` : `, shows ${shown}${wrong(image) ? `, predicted as ${taken}` : ""}`;
      const radio = page.element("input", { type: "radio", name: "explain-image", value: image, "aria-label": `${title(image)}${spoken}` });
      radio.checked = image === 0;
      radio.addEventListener("change", () => choose({ image }));
      const text = wrong(image) ? page.element("span", { class: "wrong" }, `${shown} → ${taken}`) : page.element("span", {}, shown);
      return page.element("label", { title: text.textContent }, radio, canvas, text);
    }));

    /* --- pixels --------------------------------------------------------------------------------------------- */

    const point = (pixel) => {
      if (pixel === at.pixel) return;
      at.pixel = pixel;
      tellPixel();
    };
    const under = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      const [row, column] = [[event.clientY - box.top, box.height, height], [event.clientX - box.left, box.width, width]]
        .map(([offset, length, count]) => Math.max(0, Math.min(count - 1, Math.floor(offset / length * count))));
      point(row * width + column);
    };
    const keys = {
      ArrowLeft: (row, column) => [row, column - 1],
      ArrowRight: (row, column) => [row, column + 1],
      ArrowUp: (row, column) => [row - 1, column],
      ArrowDown: (row, column) => [row + 1, column],
      Home: (row) => [row, 0],
      End: (row) => [row, width - 1],
    };
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") point(null);
      if (!keys[event.key]) return;
      event.preventDefault();
      if (at.pixel === null) return point(Math.floor(height / 2) * width + Math.floor(width / 2)); // start in the center
      const [row, column] = keys[event.key](Math.floor(at.pixel / width), at.pixel % width);
      if (row >= 0 && row < height && column >= 0 && column < width) point(row * width + column);
    };

    const listen = () => {
      for (const frame of root.querySelectorAll(".frame")) {
        for (const kind of ["pointermove", "pointerdown"]) frame.addEventListener(kind, under);
      }
      find(".map canvas").addEventListener("keydown", press);
      find("select.by-method").append(...data.methods.map((method, number) => page.element("option", { value: number }, method)));
      find("select.by-method").addEventListener("change", (event) => choose({ method: Number(event.target.value) }));
      find("select.by-class").addEventListener("change", (event) => choose({ position: Number(event.target.value) }));
      for (const radio of root.querySelectorAll(".scale input")) {
        radio.addEventListener("change", () => choose({ isShared: radio.value === "shared" }));
      }
      new ResizeObserver(fit).observe(find(".panels"));
    };

    const start = async () => {
      const [images, ...maps] = await Promise.all([data.source.bytes, ...data.maps].map(unpack));
      // the same bytes, read as signed integers
      bytes = { source: images, maps: maps.map((one) => new Int8Array(one.buffer)) };
      for (const place of [".strip legend", ".image figcaption"]) find(place).textContent = noun;
      fillStrip();
      listen();
      paintBar(find(".bar canvas"));
      fit();
      choose({ image: 0 });
      root.dataset.ready = "true";
    };
    start().catch((error) => {
      find(".explain").replaceChildren(page.element("p", { class: "notice" }, `This section cannot be shown: ${error.message}`));
    });
    // null: the section ignores the epoch slider
    return null;
  };
}
