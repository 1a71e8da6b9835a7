/* Draw or choose an image, and see the prediction of the network with its explanation.

data: {model: {program, weights, indices}, drawing: style of strokes.js or null for photographs, crop_share, examples:
{size, channels, bytes, indices, labels, predictions, confidences}}, or {reason} without a network.
*/
{
  const SHOWN = 10; // probabilities
  const NAMES = { gradient: "Gradient", input_x_gradient: "Gradient × input", "lrp.epsilon": "LRP-ε" };
  const SPOKEN_MS = 900; // pause after which the result is announced
  const BRUSH = 14; // largest radius of the brush on the board: 1/14 of its width
  const BOARD = 560; // pixels of the board

  pellucid.kinds.draw = (root, data, page) => {
    if (!data.model) return null;
    const find = (selector) => root.querySelector(selector);
    const [channels, height, width] = data.model.program.input;
    const size = [height, width];
    const style = data.drawing;
    const ground = style ? style.background : 0;
    const full = ground > 0.5 ? 0 : 1; // value of ink
    const radius = Math.min(1 / BRUSH, Math.max(0.75 / width, style ? style.stroke / width / 2 : 1 / 40));
    const name = (label) => page.classes[label] ?? `class ${label}`;
    const { percent } = page;
    const lengths = [0, ...page.classes.map((one) => one.length)];
    const isLong = Math.max(...lengths) > 10;
    find(".draw").classList.toggle("short", Math.max(...lengths) < 3);
    find(".draw").classList.toggle("long", isLong);
    const board = find(".board");
    const canvas = find(".board canvas");
    const [fit, invert] = [find(".fit"), find(".invert")];

    /* base: a picture below the strokes: {values (as the input), raw: {gray, size} of a file, or null, and index and label
       of a test image, or null}, or null.
       strokes as in strokes.js. target: the class to explain; null: the predicted one. */
    const at = { base: null, strokes: [], target: null };

    /* --- input of the network ------------------------------------------------------------------------------- */

    const isFitted = () => Boolean(style) && fit.querySelector("input").checked;
    const isInverted = () => invert.querySelector("input").checked;
    const isEmpty = () => !at.base && !at.strokes.some((stroke) => !stroke.isEraser);

    /* Repeat a plane in every channel. */
    const inChannels = (plane) => {
      const values = new Float32Array(channels * plane.length);
      for (let channel = 0; channel < channels; channel += 1) values.set(plane, channel * plane.length);
      return values;
    };
    const fromInk = (ink) => inChannels(ink.map((value) => ground + (full - ground) * value));

    const baseValues = () => {
      const { values, raw } = at.base;
      if (raw && isFitted()) return fromInk(page.strokes.centered(page.strokes.inkOf(raw.gray, raw.size, isInverted() !== ground > 0.5), raw.size, size, style));
      return isInverted() ? values.map((value) => 1 - value) : values;
    };

    /* Return what the network gets: (channel, height, width) in [0, 1]. */
    const input = () => {
      if (!at.base && isFitted()) return fromInk(page.strokes.drawn(at.strokes, size, style));
      const values = at.base ? Float32Array.from(baseValues()) : new Float32Array(channels * height * width).fill(ground);
      const strokes = at.strokes;
      if (!strokes.length) return values;
      const { ink, erased } = page.strokes.covered(strokes, size);
      return values.map((value, n) => {
        const [drawn, removed] = [ink[n % ink.length], erased[n % ink.length]];
        const [paint, paper] = style ? [full, ground] : [1, 0];
        return value * Math.max(0, 1 - drawn - removed) + paint * drawn + paper * removed;
      });
    };

    /* --- board ---------------------------------------------------------------------------------------------- */

    const shade = (value) => `rgb(${Math.round(255 * value)} ${Math.round(255 * value)} ${Math.round(255 * value)})`;

    const toBytes = (values) => {
      const bytes = new Uint8ClampedArray(values.length);
      const pixels = height * width;
      values.forEach((value, n) => { bytes[(n % pixels) * channels + Math.floor(n / pixels)] = 255 * value; });
      return new Uint8Array(bytes.buffer);
    };

    const paintBoard = () => {
      const context = canvas.getContext("2d");
      context.fillStyle = shade(ground);
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (at.base) {
        const picture = document.createElement("canvas");
        page.paintImage(picture, size, channels, toBytes(baseValues()));
        context.imageSmoothingEnabled = false;
        context.drawImage(picture, 0, 0, canvas.width, canvas.height);
      }
      context.lineCap = "round";
      context.lineJoin = "round";
      for (const stroke of at.strokes) {
        context.strokeStyle = stroke.isEraser ? shade(style ? ground : 0) : shade(style ? full : 1);
        context.lineWidth = 2 * stroke.radius * canvas.width;
        context.beginPath();
        stroke.points.forEach(([x, y], number) => context[number ? "lineTo" : "moveTo"](x * canvas.width, y * canvas.height));
        if (stroke.points.length === 1) context.lineTo(stroke.points[0][0] * canvas.width + 0.01, stroke.points[0][1] * canvas.height);
        context.stroke();
      }
      find(".hint").hidden = Boolean(at.base || at.strokes.length);
    };

    let stroke = null;
    let pointer = null;
    const APART = 0.003; // share of the board
    const extend = (points) => {
      for (const point of points) {
        const last = stroke.points[stroke.points.length - 1];
        if (!last || Math.hypot(point[0] - last[0], point[1] - last[1]) > APART) stroke.points.push(point);
      }
    };
    const places = (event) => {
      const box = canvas.getBoundingClientRect();
      // a fast pen reports several points at once
      const events = event.getCoalescedEvents?.() ?? [];
      return (events.length ? events : [event]).map((one) => [(one.clientX - box.left) / box.width, (one.clientY - box.top) / box.height]);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || pointer !== null) return; // a second finger draws nothing
      event.preventDefault();
      pointer = event.pointerId;
      canvas.setPointerCapture(pointer);
      stroke = { points: [], radius, isEraser: find(".pens input:checked").value === "erase" };
      extend(places(event));
      at.strokes.push(stroke);
      changed();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== pointer) return;
      extend(places(event));
      changed();
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(kind, (event) => { if (event.pointerId === pointer) pointer = null; });
    }

    /* --- result --------------------------------------------------------------------------------------------- */

    let isPlanned = false;
    let isBusy = false;
    let version = 0; // of the drawing, to drop results that are out of date
    const changed = () => {
      version += 1;
      root.dataset.pending = "";
      if (isPlanned) return;
      isPlanned = true;
      requestAnimationFrame(update);
    };

    const update = async () => {
      isPlanned = false;
      paintBoard();
      showOptions();
      find(".undo").disabled = find(".clear").disabled = !(at.base || at.strokes.length);
      for (const part of [".outcome", ".maps"]) find(part).hidden = isEmpty();
      if (isEmpty()) {
        delete root.dataset.pending;
        return show(null);
      }
      if (isBusy) return null;
      isBusy = true;
      const own = version;
      try {
        const values = input();
        const result = await page.runModel(values, at.target);
        if (!isEmpty()) show({ ...result, values });
      } catch (error) {
        tell(`The network could not be run: ${error.message}`);
      }
      isBusy = false;
      if (own === version) delete root.dataset.pending;
      else changed();
      return null;
    };

    const show = (result) => {
      plan(result);
      root.dataset.prediction = result?.prediction ?? "";
      if (!result) return;
      page.paintImage(find(".seen canvas"), size, channels, toBytes(result.values));
      const { index = null, label = null } = at.base ?? {};
      find(".seen figcaption").replaceChildren(...(index === null ? ["Input of the network"]
        : [page.opener(index, {}, `Test image ${index}`), label === null ? "" : `, labeled ${name(label)}`, at.strokes.length ? ", edited" : ""]));
      const { prediction, probabilities } = result;
      find(".answer").replaceChildren(prediction === null ? "The logits are not finite, so there is no prediction."
        : name(prediction), prediction === null ? "" : page.element("small", {}, `predicted with probability ${percent(probabilities[prediction])}`));
      showBars(result);
      find(".maps").hidden = result.maps === null;
      if (result.maps) showMaps(result);
    };

    /* The classes to show: all in their order, or the most probable ones, among them the explained one. */
    const shownClasses = ({ probabilities, target }) => {
      const all = [...probabilities.keys()];
      if (all.length <= SHOWN) return all;
      const best = all.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN);
      return best.includes(target) || target === null ? best : [...best.slice(0, SHOWN - 1), target];
    };

    const explain = (label) => {
      at.target = label;
      if ((at.base?.index ?? null) !== null) page.keep(root.id, { image: at.base.index, class: label });
      changed();
    };

    const bars = [];
    const showBars = (result) => {
      const shown = shownClasses(result);
      const list = find(".bars");
      if (bars.length !== shown.length) {
        bars.splice(0, bars.length, ...shown.map(() => {
          const made = page.element("button", { type: "button" }, page.element("span", { class: "name" }),
            page.element("span", { class: "track" }, page.element("span", { class: "fill" })), page.element("span", { class: "value" }));
          made.addEventListener("click", () => {
            const label = Number(made.dataset.label);
            explain(at.target === label ? null : label);
          });
          return made;
        }));
        list.replaceChildren(...bars);
        list.style.gridTemplateRows = `repeat(${isLong ? shown.length : Math.ceil(shown.length / 2)}, auto)`;
      }
      bars.forEach((bar, number) => {
        const label = shown[number];
        const share = result.probabilities[label];
        bar.dataset.label = label;
        bar.title = name(label);
        bar.setAttribute("aria-pressed", label === result.target);
        bar.classList.toggle("is-first", label === result.prediction);
        bar.querySelector(".name").textContent = name(label);
        bar.querySelector(".fill").style.width = `${100 * (share || 0)}%`;
        bar.querySelector(".value").textContent = percent(share);
      });
    };

    const figures = Object.fromEntries(Object.entries(NAMES).map(([method, title]) => {
      const picture = page.element("canvas", { role: "img", "aria-label": `${title} map` });
      const caption = page.element("figcaption");
      const frame = page.element("div", { class: "frame" }, picture);
      find(".three").append(page.element("figure", {}, frame, caption));
      return [method, { picture, caption, frame, title }];
    }));

    const showMaps = (result) => {
      const { target, prediction, certificate, sums, maps } = result;
      const back = page.element("button", { type: "button" }, "Explain the prediction");
      back.addEventListener("click", () => {
        explain(null);
        find(".bars .is-first")?.focus({ preventScroll: true }); // the button goes
      });
      find(".which-class").replaceChildren("Evidence for ", page.element("strong", {}, name(target)),
        target === prediction ? ", the predicted class." : ". ", ...(target === prediction ? [] : [back]));
      const contour = page.outline(size, channels, toBytes(result.values));
      for (const [method, { picture, caption, frame, title }] of Object.entries(figures)) {
        const map = maps[method];
        const limit = map.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        page.paintSigned(picture, size, map, limit ? page.STEPS / limit : 0);
        frame.querySelector("svg")?.remove();
        if (contour) frame.append(contour.cloneNode(true));
        caption.replaceChildren(page.element("strong", {}, title), `scale ±${page.digits(limit, 2)}, sum ${page.signed(sums[method])}`);
      }
      const { logit, pixels, bias, stabiliser, constant } = certificate;
      const gap = Math.abs(pixels + bias + stabiliser + constant - logit);
      const others = [["biases", bias], ["stabilizers", stabiliser], ["constants", constant]]
        .filter(([, value]) => Math.abs(value) > 1e-4 * Math.max(1, Math.abs(logit)));
      const parts = [["pixels", pixels], ...others].map(([part, value]) => `${part} ${page.signed(value)}`).join(", ");
      find(".sum").textContent = `${gap <= 1e-3 * Math.max(1, Math.abs(logit)) ? "LRP-ε adds up to the logit" : "LRP-ε does not add up to the logit"}: `
        + `${parts}; logit ${page.signed(logit)}.`;
    };

    /* Announce the result once the drawing has come to rest. */
    let timer = null;
    const plan = (result) => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (!result) find(".spoken").textContent = "";
        else if (result.prediction !== null) {
          const [first, second] = [...result.probabilities.keys()].sort((a, b) => result.probabilities[b] - result.probabilities[a]);
          const tell = (label) => `${name(label)} with ${percent(result.probabilities[label])}`;
          find(".spoken").textContent = `Predicted: ${tell(first)}${second === undefined ? "" : `, then ${tell(second)}`}.`;
        } else find(".spoken").textContent = "The logits are not finite.";
      }, SPOKEN_MS);
    };

    /* --- pictures ------------------------------------------------------------------------------------------- */

    const tell = (text) => { find(".problem").textContent = text; };

    const showOptions = () => {
      fit.hidden = !style || (at.base !== null && !at.base.raw);
      invert.hidden = !at.base || at.base.index !== null;
      for (const [number, button] of samples.entries()) {
        button.setAttribute("aria-pressed", at.base !== null && at.base.index === data.examples.indices[number]);
      }
    };

    /* The address no longer names the test image that was shown. */
    const forget = () => {
      if (page.place.section === root.id && page.place.image !== null) page.keep(root.id, {});
    };

    const use = (base, isDark = null) => {
      Object.assign(at, { base, strokes: [], target: null });
      fit.querySelector("input").checked = Boolean(base?.raw) || !base;
      invert.querySelector("input").checked = Boolean(style) && isDark !== null && isDark !== ground <= 0.5;
      tell("");
      changed();
    };

    /* Read the pixels of a picture drawn at some size, as (channel, height, width) with the given number of channels. */
    const pixelsOf = (picture, [rows, columns], [x, y, w, h], count, paper) => {
      const copy = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
      const context = copy.getContext("2d", { willReadFrequently: true });
      context.fillStyle = shade(paper);
      context.fillRect(0, 0, columns, rows); // below transparent pixels
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, x, y, w, h, 0, 0, columns, rows);
      const bytes = context.getImageData(0, 0, columns, rows).data;
      const values = new Float32Array(count * rows * columns);
      for (let pixel = 0; pixel < rows * columns; pixel += 1) {
        const colour = [0, 1, 2].map((channel) => bytes[4 * pixel + channel] / 255);
        if (count === 1) values[pixel] = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2];
        else colour.forEach((value, channel) => { values[channel * rows * columns + pixel] = value; });
      }
      return values;
    };

    /* Return what to lay below a drawing with transparent pixels: black below bright ink, white below dark ink. */
    const paperOf = (picture) => {
      const context = Object.assign(document.createElement("canvas"), { width: 64, height: 64 }).getContext("2d");
      context.drawImage(picture, 0, 0, 64, 64);
      const { data: bytes } = context.getImageData(0, 0, 64, 64);
      let [light, opaque] = [0, 0];
      for (let at = 0; at < bytes.length; at += 4) {
        light += bytes[at + 3] * (0.299 * bytes[at] + 0.587 * bytes[at + 1] + 0.114 * bytes[at + 2]) / 255;
        opaque += bytes[at + 3];
      }
      return !style || opaque > 0.99 * 255 * 64 * 64 ? ground : Number(light < 0.5 * opaque);
    };

    const openFile = async (file) => {
      let picture = null;
      try {
        picture = await createImageBitmap(file);
      } catch {
        return tell(`${file.name || "The file"} is not an image that the browser can read.`);
      }
      forget();
      const [w, h] = [picture.width, picture.height];
      // as the preprocessing of the model: the shorter side to the size of the input, then the center
      const scale = Math.min(w / width, h / height) * data.crop_share;
      const cut = [(w - width * scale) / 2, (h - height * scale) / 2, width * scale, height * scale];
      const isExact = w === width && h === height;
      const paper = paperOf(picture);
      const values = pixelsOf(picture, size, isExact ? [0, 0, w, h] : cut, channels, paper);
      if (!style) {
        picture.close();
        return use({ values, raw: null, index: null });
      }
      const side = Math.min(1, 256 / Math.max(w, h));
      const small = [Math.max(1, Math.round(h * side)), Math.max(1, Math.round(w * side))];
      const gray = pixelsOf(picture, small, [0, 0, w, h], 1, paper);
      picture.close();
      const isDark = page.strokes.borderLevel(gray, small) <= 0.5;
      // an image of the network's size is used as it is
      return use({ values, raw: isExact ? null : { gray, size: small }, index: null }, isDark);
    };

    const useBytes = (bytes, index, label) => {
      const pixels = height * width;
      use({ values: Float32Array.from({ length: channels * pixels }, (_, n) => bytes[(n % pixels) * channels + Math.floor(n / pixels)] / 255),
        raw: null, index, label });
    };

    const samples = [];
    let examples = null; // bytes of all examples
    const exampleOf = (number) => examples.subarray(number * height * width * channels, (number + 1) * height * width * channels);
    const start = async () => {
      examples = await page.unpack(data.examples.bytes);
      for (const [number, index] of data.examples.indices.entries()) {
        const label = name(data.examples.labels[number]);
        const picture = page.element("canvas", { "aria-hidden": "true" });
        page.paintImage(picture, size, channels, exampleOf(number));
        const button = page.element("button", { type: "button", "aria-label": `Test image ${index}, ${label}`, title: `Test image ${index}: ${label}` }, picture);
        button.addEventListener("click", () => {
          useBytes(exampleOf(number), index, data.examples.labels[number]);
          page.keep(root.id, { image: index });
        });
        samples.push(button);
      }
      find(".samples > div").append(...samples);
      find(".samples").hidden = !samples.length;
      changed();
    };

    page.offerImages(async (index) => {
      const number = data.examples.indices.indexOf(index);
      if (number < 0) return null;
      await ready;
      const { labels, predictions, confidences } = data.examples;
      return { index, size, channels, bytes: exampleOf(number), label: labels[number], prediction: predictions[number],
        confidence: confidences[number], isExact: true };
    });

    /* --- controls ------------------------------------------------------------------------------------------- */

    /* Call `act` when a button is pressed. Right after drawing, browsers may take a tap for part of the last gesture and
       send no click, so the end of a touch is enough. */
    const press = (button, act) => {
      let touched = -Infinity;
      button.addEventListener("pointerup", (event) => {
        if (event.pointerType !== "touch" || document.elementFromPoint(event.clientX, event.clientY) !== button) return;
        touched = event.timeStamp;
        act();
      });
      button.addEventListener("click", (event) => { if (event.timeStamp - touched > 1000) act(); });
    };
    const undo = () => {
      if (at.strokes.length) at.strokes.pop();
      else if (at.base) {
        forget();
        return use(null);
      }
      return changed();
    };
    press(find(".undo"), undo);
    press(find(".clear"), () => {
      use(null);
      page.keep(root.id, {});
    });
    fit.addEventListener("change", changed);
    invert.addEventListener("change", changed);
    find(".file input").addEventListener("change", (event) => {
      if (event.target.files.length) openFile(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again
    });
    for (const kind of ["dragenter", "dragover"]) board.addEventListener(kind, (event) => {
      event.preventDefault();
      board.classList.add("is-over");
    });
    for (const kind of ["dragleave", "drop"]) board.addEventListener(kind, () => board.classList.remove("is-over"));
    board.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
    });
    const isInView = () => {
      const { top, bottom } = root.getBoundingClientRect();
      return bottom > 0 && top < innerHeight;
    };
    document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (file && isInView()) openFile(file);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "z" || !(event.ctrlKey || event.metaKey)) return;
      // drawing with the mouse gives no element the focus
      if (!root.contains(event.target) && !(event.target === document.body && isInView())) return;
      event.preventDefault();
      undo();
    });

    canvas.width = BOARD;
    canvas.height = Math.round(BOARD * height / width);
    board.classList.toggle("bright", ground > 0.5);
    const paintScale = () => page.paint(find(".scale canvas"), [1, 2 * page.STEPS + 1], (step) => [...page.colours()[step], 255]);
    paintScale();
    page.onScheme(() => {
      paintScale();
      changed();
    });
    const ready = start();
    return {
      ready,
      open: async ({ image, class: label }) => {
        const found = image === null ? null : await page.findImage(image);
        if (found && found.isExact && found.size[0] === height && found.size[1] === width && found.channels === channels) {
          useBytes(found.bytes, image, found.label);
        } else if (image !== null) tell(`This page has no pixels of test image ${image}.`);
        if (label !== null && label < data.model.program.classes) at.target = label;
        changed();
      },
    };
  };
}
