/* Live explanations by the server of `pellucid serve RUN`.

This script is only in pages that the server sends; there, and nowhere else, two functions exist, from the start and for
every section:

    page.served({index | pixels | picture, method, class, options, invert}, signal) → promise of a map
        index: number of a test image; or pixels: Float32Array of (channel, height, width) in [0, 1], in the model's
        size; or picture: a Blob or File with a PNG or JPEG image of any size, whose colors `invert` inverts.
        method: name of any registered method. class: index; null: the predicted one. options: {name: value}; absent:
        the method's defaults. signal: of an AbortController, whose abort() also stops the server's work.
        The map: {method, class, size: [height, width], values: Float32Array of (height, width), summed over channels,
        limit: value at the ends of the color scale, image: as below, probabilities: [by class] or null,
        logit: of the explained class, sums: {expected, total, residual, allowed, holds} or null if the method
        promises none, verdict: sentence on the sum, notes: [sentence], unit, seconds}.
    page.servedImage(index) → promise of {index, size: [height, width], channels, bytes: Uint8Array of
        (height, width, channel), label, prediction, confidence, isExact}; label and index are null for other images.

Both reject with an Error whose message is the server's, for people to read; after abort() with an AbortError.
*/
{
  const MOST_BYTES = 11e6; // of a picture; the server reads requests of 16 MB, and base64 adds a third
  const PAUSE_MS = 150; // after the last key press in a field
  const TELL_MS = 300; // before a computation is mentioned

  /* Send a request; an answer with an error becomes an Error with the server's message, which may begin with a name. */
  const call = async (path, options = {}, name = null) => {
    const answer = await fetch(path, options).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not respond; it may have been stopped. Start it again with pellucid serve.");
    });
    const content = await answer.json();
    if (!answer.ok) {
      const { message } = content.error;
      throw new Error(name !== null && message.startsWith(name) ? message : message.charAt(0).toUpperCase() + message.slice(1));
    }
    return content;
  };

  const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  // every image and map has its own pixels, unlike downsampled ones of the report
  const readImage = (image) => ({ ...image, bytes: bytesOf(image.bytes), isExact: true });

  /* Encode a file in base64. */
  const encoded = (file) => new Promise((resolve, reject) => {
    if (file.size > MOST_BYTES) throw new Error(`The image file has ${(file.size / 1e6).toFixed(1)} MB; the limit is ${MOST_BYTES / 1e6} MB.`);
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The image file cannot be read."));
    reader.readAsDataURL(file);
  });

  /* Turn (channel, height, width) numbers into nested lists. */
  const nested = (pixels, [channels, height, width]) => Array.from({ length: channels }, (_, channel) =>
    Array.from({ length: height }, (_, row) => {
      const start = (channel * height + row) * width;
      return Array.from(pixels.subarray(start, start + width));
    }));

  pellucid.servedImage = async (index) => readImage(await call(`/api/images/${index}`));

  pellucid.served = async ({ index = null, pixels = null, picture = null, method, class: label = null, options = {}, invert = false }, signal) => {
    const shape = () => JSON.parse(document.getElementById("data-live").textContent).image_shape;
    const asked = { method, class: label, options, invert };
    if (picture) asked.picture = await encoded(picture);
    else if (pixels) asked.pixels = nested(pixels, shape());
    else asked.index = index;
    const made = await call("/api/map", { method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked) }, method);
    return { ...made, values: new Float32Array(bytesOf(made.values).buffer), image: readImage(made.image), seconds: made.timing.seconds };
  };

  pellucid.offerImages((index) => pellucid.servedImage(index).catch(() => null));

  pellucid.kinds.serve = (root, data, page) => {
    const find = (selector) => root.querySelector(selector);
    const at = { index: data.test_images ? 0 : null, picture: null, method: data.method, class: null, options: {} };
    const methods = new Map(data.methods.map((method) => [method.name, method]));
    let control = null; // of the computation under way
    let timer = 0;
    let wrong = null; // misclassified test images, once known
    let last = null; // the map on the screen

    const name = (label) => page.classes[label] ?? `class ${label}`;
    const classOf = (label) => `class ${page.classes[label] ?? label}`;
    const isGray = data.image_shape[0] === 1;

    const tell = (text, isFailure = false) => {
      const state = find(".state");
      state.textContent = text;
      state.classList.toggle("failed", isFailure);
    };

    const paintResult = (map) => {
      const [height, width] = map.size;
      const isSmall = height * width <= 128 * 128;
      const canvas = find(".map canvas");
      page.paintSigned(canvas, map.size, map.values, page.STEPS / map.limit);
      page.paintImage(find(".image canvas"), map.image.size, map.image.channels, map.image.bytes);
      for (const one of root.querySelectorAll(".frame canvas")) one.classList.toggle("small", isSmall);
      find(".map .outline")?.remove();
      const outline = page.outline(map.image.size, map.image.channels, map.image.bytes);
      if (outline) canvas.after(outline);
      const shown = map.image.index === null ? "your image" : `test image ${map.image.index}`;
      find(".image canvas").setAttribute("aria-label", shown);
      canvas.setAttribute("aria-label", `Relevance of ${shown} by ${map.method} for ${classOf(map.class)}`);
      find(".image figcaption").textContent = map.image.index === null ? "Your image, as the network receives it" : `Test image ${map.image.index}`;
      find(".map figcaption").textContent = `${map.method} for ${classOf(map.class)}`;
    };

    const tellResult = (map) => {
      const { prediction, confidence, label } = map.image;
      const truth = label === null ? "" : label === prediction ? " Correct." : ` True class: ${name(label)}.`;
      find(".prediction").textContent = confidence === null ? "The logits are not finite."
        : `Predicted as ${name(prediction)} (${page.percent(confidence)}).${truth}`;
      page.paintSigned(find(".bar canvas"), [1, 255], Float32Array.from({ length: 255 }, (_, step) => step - page.STEPS));
      const [low, , high] = find(".ends").children;
      [low.textContent, high.textContent] = [page.digits(-map.limit), page.signed(map.limit)];
      find(".limit").textContent = `Red: evidence for the class, blue: against it${map.unit ? `, in ${map.unit}` : ""}. ` +
        `Logit: ${page.digits(map.logit)}${map.probabilities ? `; probability: ${page.percent(map.probabilities[map.class])}` : ""}.`;
      find(".certificate").textContent = map.verdict.replace(/(?<= )-(?=\d)/g, "−");
      find(".certificate").classList.toggle("notice", map.sums !== null && !map.sums.holds);
      find(".notes").replaceChildren(...map.notes.map((note) => page.element("li", {}, note)));
      const ms = map.seconds * 1000;
      find(".time").textContent = `Computed in ${ms < 1000 ? `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms` : `${map.seconds.toFixed(1)} s`}` +
        ` (${map.evaluations.toLocaleString("en")} forward ${map.evaluations === 1 ? "pass" : "passes"}).`;
    };

    const compute = async () => {
      clearTimeout(timer);
      control?.abort();
      if (at.index === null && !at.picture) return tell(data.test_images ? "" : "Open or drop an image to explain it.");
      const own = new AbortController();
      control = own;
      find(".result").classList.add("stale");
      const slow = setTimeout(() => {
        tell(`Computing ${at.method}${methods.get(at.method).needs_fit ? ", which is first fitted to training images" : ""}…`);
        find(".cancel").hidden = false;
      }, TELL_MS);
      try {
        const map = await page.served({ ...at, invert: !find(".check").hidden && find(".invert").checked }, own.signal);
        last = map;
        paintResult(map);
        tellResult(map);
        find(".result").classList.remove("stale");
        find(".result").hidden = false;
        tell("");
        root.dataset.shown = `${map.method} ${map.class} ${map.image.index}`;
      } catch (error) {
        if (control === own) tell(error.name === "AbortError" ? "Canceled." : error.message, error.name !== "AbortError");
      } finally {
        clearTimeout(slow);
        if (control === own) {
          find(".cancel").hidden = true;
          control = null;
        }
      }
    };

    const keep = () => page.keep("live", { image: at.picture ? null : at.index, method: at.method, class: at.class });

    /* Change what is explained; `isTyped` waits for the end of the typing. */
    const change = (part, isTyped = false) => {
      Object.assign(at, part);
      if (!isTyped) keep();
      clearTimeout(timer);
      if (isTyped) timer = setTimeout(() => { keep(); compute(); }, PAUSE_MS);
      else compute();
    };

    const showIndex = () => { find("#live-index").value = at.index ?? ""; };
    const chooseIndex = (index, isTyped = false) => {
      find(".check").hidden = true;
      change({ index, picture: null }, isTyped);
      if (!isTyped) showIndex();
    };
    const choosePicture = (file) => {
      find(".check").hidden = !isGray;
      change({ index: null, picture: file });
      showIndex();
    };

    /* Create the field of an option; an empty field is its default. */
    const optionField = (option) => {
      const id = `live-option-${option.name}`;
      const set = (value, isTyped) => {
        const options = { ...at.options };
        if (value === undefined) delete options[option.name];
        else options[option.name] = value;
        change({ options }, isTyped);
      };
      const title = option.name.replaceAll("_", " ");
      if (option.kind === "boolean") {
        const box = page.element("input", { type: "checkbox", id });
        box.checked = option.default;
        box.addEventListener("change", () => set(box.checked === option.default ? undefined : box.checked));
        return page.element("div", { class: "option" }, page.element("label", { class: "check" }, box, title));
      }
      const label = page.element("label", { for: id }, title);
      if (option.kind === "choice") {
        const select = page.element("select", { id }, ...option.choices.map((choice) => page.element("option", {}, String(choice))));
        select.value = String(option.default);
        select.addEventListener("change", () => set(option.choices[select.selectedIndex]));
        return page.element("div", { class: "option" }, label, select);
      }
      const isText = option.kind === "text";
      const range = Object.fromEntries([["min", option.low], ["max", option.high]].filter(([, end]) => end !== undefined));
      const field = page.element("input", { id, type: isText ? "text" : "number", placeholder: option.default ?? "automatic", autocomplete: "off",
        ...(isText ? {} : { step: option.kind === "integer" ? 1 : "any", ...range }) });
      field.addEventListener("input", () => {
        if (!field.checkValidity()) {
          const limits = range.max === undefined ? `at least ${range.min}` : `from ${range.min ?? "−∞"} to ${range.max}`;
          return tell(`${title} must be ${option.kind === "integer" ? "a whole number" : "a number"}${range.min === undefined ? "" : `, ${limits}`}.`, true);
        }
        set(field.value === "" ? undefined : isText ? field.value : Number(field.value), true);
      });
      return page.element("div", { class: "option" }, label, field);
    };

    const showMethod = () => {
      const method = methods.get(at.method);
      find("#live-method").value = at.method;
      find(".answers").textContent = `${method.answers.charAt(0).toUpperCase()}${method.answers.slice(1)}.${method.needs_fit ? " Fitted to training images on first use." : ""}`;
      find(".options .list").replaceChildren(...(method.options.length ? method.options.map(optionField)
        : [page.element("p", { class: "none" }, "This method has no options.")]));
    };
    const chooseMethod = (method) => {
      Object.assign(at, { method, options: {} });
      showMethod();
    };

    const fill = () => {
      for (const family of [...new Set(data.methods.map((method) => method.family))]) {
        const own = data.methods.filter((method) => method.family === family);
        find("#live-method").append(page.element("optgroup", { label: family.replaceAll("_", " ") },
          ...own.map((method) => page.element("option", { value: method.name }, method.name))));
      }
      find("#live-class").append(page.element("option", { value: "" }, "predicted class"),
        ...page.classes.map((label, number) => page.element("option", { value: number }, label)));
      const index = find("#live-index");
      index.max = Math.max(0, data.test_images - 1);
      for (const one of [index, find(".random"), find(".wrong")]) one.disabled = !data.test_images;
      find(".result").hidden = true;
    };

    const misclassified = async () => {
      const button = find(".wrong");
      try {
        if (!wrong) {
          button.disabled = true;
          tell("Predicting all test images…");
          wrong = (await call("/api/misclassified")).indices;
          button.disabled = false;
          tell("");
        }
        if (!wrong.length) return tell("No test image is misclassified.");
        // the next one, and after the last again the first
        chooseIndex(wrong.find((one) => one > (at.index ?? -1)) ?? wrong[0]);
      } catch (error) {
        button.disabled = false;
        tell(error.message, true);
      }
    };

    const listen = () => {
      find("form").addEventListener("submit", (event) => event.preventDefault());
      find("#live-index").addEventListener("input", ({ target }) => {
        if (target.value !== "" && target.checkValidity()) chooseIndex(Number(target.value), true);
        else tell(`There are ${page.many(data.test_images, "test image")}; choose an index from 0 to ${data.test_images - 1}.`, true);
      });
      find(".random").addEventListener("click", () => chooseIndex(Math.floor(Math.random() * data.test_images)));
      find(".wrong").addEventListener("click", misclassified);
      find("#live-file").addEventListener("change", ({ target }) => {
        if (target.files[0]) choosePicture(target.files[0]);
        target.value = ""; // the same file can be chosen again
      });
      find(".invert").addEventListener("change", compute);
      find("#live-method").addEventListener("change", ({ target }) => { chooseMethod(target.value); change({}); });
      find("#live-class").addEventListener("change", ({ target }) => change({ class: target.value === "" ? null : Number(target.value) }));
      find(".cancel").addEventListener("click", () => {
        clearTimeout(timer); // a value typed just before would start the next computation
        control?.abort();
      });
      const live = find(".live");
      for (const kind of ["dragenter", "dragover"]) {
        live.addEventListener(kind, (event) => { event.preventDefault(); live.classList.add("dropping"); });
      }
      live.addEventListener("dragleave", (event) => { if (!live.contains(event.relatedTarget)) live.classList.remove("dropping"); });
      live.addEventListener("drop", (event) => {
        event.preventDefault();
        live.classList.remove("dropping");
        if (event.dataTransfer.files[0]) choosePicture(event.dataTransfer.files[0]);
      });
    };

    const open = (place) => {
      if (place.image !== null && place.image < data.test_images) Object.assign(at, { index: place.image, picture: null });
      if (place.class !== null && place.class < page.classes.length) at.class = place.class;
      find("#live-class").value = at.class ?? "";
      if (methods.has(place.method)) chooseMethod(place.method);
      find(".check").hidden = true;
      showIndex();
      compute();
    };

    fill();
    listen();
    page.onScheme(() => {
      if (!last) return;
      paintResult(last);
      tellResult(last);
    });
    showMethod();
    showIndex();
    if (page.place.section !== "live" || (page.place.image ?? page.place.method ?? page.place.class) === null) compute();
    return { open };
  };
}
