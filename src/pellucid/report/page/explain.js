/* Interactive relevance maps of a test image by any method for any class; data: see explain_maps.js. */
{
  const FAVORITE = ["lrp.epsilon", "input_x_gradient", "gradient"]; // in this order if another method is not available

  pellucid.kinds.explain = (root, data, page) => {
    const find = (selector) => root.querySelector(selector);
    const store = page.explainMaps(data, page);
    const name = (label) => page.classes[label] ?? `class ${label}`;
    const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
    // without a name, "class 7"; some data sets name their classes like that
    const isNamedClass = (label) => /^class\b/i.test(name(label));
    const classOf = (label) => (isNamedClass(label) ? name(label) : `class ${name(label)}`);
    const noun = upper(data.noun);
    // start with the recommended method, or one that has a conservation check
    const withSum = data.methods[Math.max(0, data.parts[0].expected.findIndex((table) => table !== null))];
    const at = { image: null, method: data.opens_on ?? withSum, label: null, isShared: false, pixel: null };
    let chosenMethod = at.method; // another one is shown only for images that lack its map
    const tellInfluence = page.explainInfluence(root, data.influence, page);
    const keep = (more = {}) => page.keep(root.id, { image: at.image.index, method: at.method, class: at.label, ...more });
    const byChannel = page.explainChannels(root, page, keep);
    let strip = null;
    let isNear = false; // the small maps are near enough to be painted

    const current = () => store.map(at.image, at.method, at.label);
    const limitOf = (map) => (at.isShared && map.sharedLimit !== null ? map.sharedLimit : map.limit);
    const isWrong = ({ label, prediction }) => label !== null && prediction !== null && label !== prediction;
    const roles = (label) => [["target", at.image.target], ["predicted", at.image.prediction], ["true", at.image.label]]
      .filter(([, role]) => role === label).map(([text]) => text);

    /* Return the classes that can be explained: the target first, the predicted class, the true one, then the others. */
    const labels = () => {
      const first = [at.image.target, at.image.prediction, at.image.label];
      const others = store.isOpen(at.image) ? page.classes.map((_, label) => label) : [];
      const all = [...new Set([...first, ...at.image.classes, ...others])].filter((label) => label !== null);
      return all.filter((label) => at.image.classes.includes(label) || store.isOpen(at.image));
    };
    const methods = () => store.names().filter((method) => store.isAvailable(at.image, method, at.label));

    /* --- pictures ------------------------------------------------------------------------------------------- */

    const paintMap = (canvas, map) => page.paintSigned(canvas, map.size, map.values, map.unit / limitOf(map) * page.STEPS);

    const outlined = (frame, template) => {
      frame.querySelector(".outline")?.remove();
      if (template) frame.querySelector("canvas:last-of-type").after(template.cloneNode(true));
    };

    /* Enlarge small images by a whole number, so that all pixels have the same size. */
    const fit = () => {
      const width = (current() ?? data).size[1];
      for (const figure of root.querySelectorAll(".panels figure")) {
        const wide = figure.clientWidth;
        figure.querySelector(".frame").style.width = `${width <= 64 ? Math.max(1, Math.floor(wide / width)) * width : wide}px`;
      }
    };

    /* --- words ---------------------------------------------------------------------------------------------- */

    const described = () => {
      const { title, label, prediction, confidence } = at.image;
      if (prediction === null) return label === null ? title : `${title} shows ${name(label)}`;
      const [taken, sure] = [name(prediction), confidence === null ? "" : ` with confidence ${page.percentInWords(confidence)}`];
      if (label === null) return `${title} is predicted as ${taken}${sure}`;
      return isWrong(at.image) ? `${title} shows ${name(label)} and is predicted as ${taken}${sure}`
        : `${title} shows ${name(label)} and is classified correctly${sure}`;
    };

    /* Say why something else is shown; code is between backticks. */
    const tellState = (text) => find(".state").replaceChildren(
      ...text.split("`").map((part, number) => (number % 2 ? page.element("code", {}, part) : part)));

    const tellAnswer = (map) => {
      const { logit, probability } = store.scores(at.image, at.label);
      // the confidence is the probability of the predicted class
      const isSaid = at.label === at.image.prediction && at.image.confidence !== null;
      const of = [probability === null || isSaid ? "" : `probability ${page.percentInWords(probability)}`, logit === null ? "" : `logit ${page.digits(logit)}`].filter(Boolean);
      const [before, bold] = isNamedClass(at.label) ? [" ", upper(name(at.label))] : [" Class ", name(at.label)];
      const parts = of.length ? [before, page.element("b", {}, bold), ` has ${of.join(" and ")}.`] : [];
      find(".answer").replaceChildren(`${described()}.`, ...parts);
      find(".image canvas").setAttribute("aria-label", described());
      if (!map) return;
      const heatmap = `Relevance of ${map.size.join("×")} pixels for ${classOf(at.label)} by ${at.method}`;
      find(".map canvas").setAttribute("aria-label", `${heatmap}; ${described()}`);
      find(".over .below").setAttribute("aria-label", `${heatmap}, over the image in gray`);
    };

    const tellLimit = (map) => {
      const end = limitOf(map);
      const [first, , last] = find(".ends").children;
      first.textContent = page.digits(-end);
      last.textContent = `+${page.digits(end)}`;
      // the limits are rounded to six digits
      const beyond = map.values.reduce((count, value) => count + (Math.abs(value * map.unit) > end * 1.0001), 0);
      const most = map.values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0) * map.unit;
      const isShared = at.isShared && map.sharedLimit !== null;
      const whose = isShared
        ? `The color scale, ±${page.digits(end)}, is shared by all classes of this image and method, so colors are comparable.`
        : `The color scale, ±${page.digits(end)}, is this map's own, so its colors are not comparable with other maps.`;
      const more = beyond ? ` ${beyond} of ${map.values.length} pixels exceed the scale, up to ${page.digits(most)}.` : "";
      const nothing = most === 0 ? " The map is empty: relevance is zero everywhere or not finite." : "";
      find(".limit").textContent = `Red: relevance for ${classOf(at.label)}; blue: against it. ${whose}${more}${nothing} ${map.origin}`.trim();
    };

    const tellCertificate = (map) => {
      const { logit } = store.scores(at.image, at.label);
      const { verdict, numbers, remark } = page.conservation(map, logit, at.method, page);
      find(".certificate .balance").textContent = verdict;
      find(".certificate details").hidden = !numbers.length;
      find(".certificate details .pale").textContent = remark;
      find(".certificate dl").replaceChildren(...numbers.map(([term, text]) =>
        page.element("div", {}, page.element("dt", {}, term), page.element("dd", {}, text))));
    };

    const pixelText = (map, row, column) => {
      const { size: [tall, wide], channels, bytes } = at.image;
      const [height, width] = map.size;
      const [top, bottom] = [Math.floor(row * tall / height), Math.ceil((row + 1) * tall / height)];
      const [left, right] = [Math.floor(column * wide / width), Math.ceil((column + 1) * wide / width)];
      const sums = new Array(channels).fill(0);
      for (let y = top; y < bottom; y += 1) {
        for (let x = left; x < right; x += 1) {
          for (let channel = 0; channel < channels; channel += 1) sums[channel] += bytes[(y * wide + x) * channels + channel];
        }
      }
      const means = sums.map((total) => Math.round(total / ((bottom - top) * (right - left))));
      const text = channels === 1 ? String(means[0]) : `(${means.join(", ")})`;
      return data.is_exact || map.origin ? `pixel ${text} of 255` : `mean pixel about ${text} of 255`;
    };

    const tellPixel = () => {
      const map = current();
      const isShown = at.pixel !== null && Boolean(map);
      const marks = root.querySelectorAll(".mark");
      for (const mark of marks) mark.hidden = !isShown;
      for (const frame of root.querySelectorAll(".frame")) frame.classList.toggle("reading", isShown);
      if (!isShown) {
        find(".readout").textContent = "";
        return;
      }
      const [height, width] = map.size;
      const [row, column] = [Math.floor(at.pixel / width), at.pixel % width];
      for (const mark of marks) {
        const style = { left: column / width, top: row / height, width: 1 / width, height: 1 / height };
        for (const [side, share] of Object.entries(style)) mark.style[side] = `${100 * share}%`;
      }
      const value = map.values[at.pixel] * map.unit;
      const steps = map.origin ? "" : ` (in steps of ${page.digits(map.unit)})`;
      const share = map.expected ? `, ${(100 * value / map.expected).toFixed(1).replace("-", "−")}% of the expected sum` : "";
      find(".readout").textContent = `Row ${row}, column ${column}: ${pixelText(map, row, column)}, relevance ${page.signed(value)}${steps}${share}.`;
    };

    /* --- choices -------------------------------------------------------------------------------------------- */

    const fillSelects = () => {
      find("select.by-class").replaceChildren(...labels().map((label) => {
        const { probability } = store.scores(at.image, label);
        const marks = [probability === null ? "" : page.percent(probability), ...roles(label),
          at.image.classes.includes(label) ? "" : "computed here"];
        return page.element("option", { value: label }, [name(label), ...marks].filter(Boolean).join(" · "));
      }));
      find("select.by-class").value = at.label;
      const available = new Set(methods());
      find("select.by-method").replaceChildren(...store.names().map((method) =>
        page.element("option", { value: method, ...(available.has(method) ? {} : { disabled: "" }) }, method)));
      find("select.by-method").value = at.method;
    };

    /* Allow line breaks in method names after underscores and dots. */
    const breakable = (text) => text.split(/(?<=[._])/).flatMap((part, number) => (number ? [page.element("wbr"), part] : [part]));

    const tile = (method, label, isPressed, texts, template, change) => {
      const canvas = page.element("canvas", { class: "pixels", "aria-hidden": "true" });
      const thumb = page.element("span", { class: "thumb" }, canvas);
      const paint = () => {
        const map = store.map(at.image, method, label);
        if (!map) return;
        paintMap(canvas, map);
        if (template) thumb.append(template.cloneNode(true));
      };
      if (store.map(at.image, method, label) === undefined) store.load(at.image, method, label).then(() => { if (canvas.isConnected) paint(); }, () => {});
      else paint();
      const button = page.element("button", { type: "button", "aria-pressed": isPressed }, thumb,
        page.element("span", {}, ...texts.filter(Boolean).map((text, line) =>
          page.element("span", line ? { class: "pale" } : {}, ...breakable(text)))));
      button.addEventListener("click", () => choose(change));
      return button;
    };
    const refill = (group, buttons) => { // keeps the focus on the button that was just used
      const focused = [...group.children].indexOf(document.activeElement);
      group.replaceChildren(...buttons);
      if (focused >= 0) group.children[focused]?.focus({ preventScroll: true });
    };
    const fillMultiples = (template) => {
      const scope = at.isShared ? "color scales shared by the image's classes" : "individual color scales";
      find(".of-methods").textContent = `${upper(classOf(at.label))} by method (${scope})`;
      find(".of-classes").textContent = `${at.method} by class (${at.isShared ? "shared color scale" : "individual color scales"})`;
      if (!isNear) return;
      refill(find(".methods"), methods().filter((method) => method === at.method || store.isQuick(at.image, method, at.label)).map((method) =>
        tile(method, at.label, method === at.method, [method], template, { method })));
      // without stored maps, every class costs a pass through the network
      const shown = labels().filter((label) => label === at.label || store.isQuick(at.image, at.method, label)).slice(0, Math.max(10, at.image.classes.length));
      refill(find(".classes"), shown.map((label) => {
        const { probability } = store.scores(at.image, label);
        const detail = [probability === null ? "" : page.percent(probability), roles(label).join(", ")];
        return tile(at.method, label, label === at.label, [name(label), ...detail], template, { label });
      }));
    };

    /* Show or hide what needs a map. */
    const toggle = (hasMap) => {
      for (const selector of [".map", ".over", ".bar", ".limit", ".certificate", ".controls", ".of-methods", ".methods", ".of-classes", ".classes", ".keys", ".picture", ".plain", ".values"]) {
        find(selector).hidden = !hasMap;
      }
    };

    const render = (map) => {
      find(".panels").classList.remove("stale");
      const { size, channels, bytes } = at.image;
      page.paintImage(find(".image canvas"), size, channels, bytes);
      toggle(Boolean(map));
      const template = page.outline(size, channels, bytes);
      if (map) {
        page.paintSigned(find(".bar canvas"), [1, 255], Array.from({ length: 255 }, (_, step) => step - page.STEPS));
        paintMap(find(".map canvas"), map);
        page.paintFaint(find(".below"), at.image, page);
        page.paintOver(find(".above"), map, limitOf(map), page);
        for (const selector of [".map .frame", ".over .frame"]) outlined(find(selector), template);
        fillSelects();
        fillMultiples(template);
        tellLimit(map);
        tellCertificate(map);
      }
      tellAnswer(map);
      tellInfluence(at.image);
      byChannel.tell(at.image, at.label);
      tellPixel();
      fit();
      root.dataset.ready = "true";
    };

    const show = () => {
      const wanted = { ...at };
      const isCurrent = () => ["image", "method", "label"].every((key) => wanted[key] === at[key]);
      const map = current();
      if (map !== undefined) return render(map);
      find(".panels").classList.add("stale");
      return store.load(at.image, at.method, at.label).then(() => { if (isCurrent()) render(current()); }, (error) => {
        if (!isCurrent() || error.name === "AbortError") return;
        render(null);
        tellState(`There is no map: ${error.message}`);
      });
    };

    /* Make the choice consistent: return a sentence if another class or method than the chosen one has to be shown. */
    const settle = () => {
      const { image, method, label } = at;
      const known = labels();
      if (!known.includes(label)) at.label = image.target ?? (known.includes(image.prediction) ? image.prediction : known[0] ?? image.prediction);
      if (store.isAvailable(image, method, at.label)) return "";
      const other = [...FAVORITE, ...store.names()].find((one) => store.isAvailable(image, one, at.label));
      if (other === undefined) return "";
      at.method = other;
      const why = image.part === null ? "maps of this image are not stored in the page"
        : `maps by ${method} for this class are not stored in the page`;
      return `Showing ${other}, because ${why}.`;
    };

    const choose = (changes, note = "") => {
      Object.assign(at, changes);
      if ("method" in changes) chosenMethod = at.method;
      else if ("image" in changes) at.method = chosenMethod;
      if ("image" in changes) {
        if (!("label" in changes)) at.label = null;
        strip.add(at.image);
        strip.select(at.image);
      }
      const notes = [note, settle()];
      if (!store.isAvailable(at.image, at.method, at.label)) {
        notes.push("The page stores no maps of this image; `pellucid serve RUN` computes them.");
      }
      tellState(notes.filter(Boolean).join(" "));
      keep();
      return show();
    };

    /* Show what the address names; what does not exist is replaced, with a note. */
    let asked = 0; // counts what was opened: finding an image may take longer than asking for the next one
    const open = async ({ ...place }) => {
      const own = asked += 1;
      const [changes, notes] = [{}, []];
      if (place.image !== null) {
        const image = await store.find(place.image);
        if (own !== asked) return;
        if (image) changes.image = image;
        else notes.push(page.served || !data.has_images ? `There is no ${data.noun} ${place.image}.`
          : `${noun} ${place.image} is not stored in the page; \`pellucid serve RUN\` explains any image.`);
      }
      if (place.method !== null && store.names().includes(place.method)) changes.method = place.method;
      else if (place.method !== null) notes.push(`There are no maps by ${place.method}.`);
      if (place.class !== null && !notes.length) {
        const image = changes.image ?? at.image;
        if (image.classes.includes(place.class) || (store.isOpen(image) && place.class < page.classes.length)) changes.label = place.class;
        else notes.push(`There is no map of this image for ${classOf(place.class)}.`);
      }
      if (place.channel === null) page.closeChannel?.();
      await choose(changes, notes.join(" "));
      if (place.channel === null || own !== asked || byChannel.open(place.layer, place.channel)) return;
      page.closeChannel?.();
      tellState([...notes, `Channel ${place.channel} of this image is not stored in the page.`].join(" "));
    };

    /* --- pixels --------------------------------------------------------------------------------------------- */

    const point = (pixel) => {
      if (pixel === at.pixel) return;
      at.pixel = pixel;
      tellPixel();
    };
    const under = (event) => {
      const map = current();
      if (!map) return;
      const [height, width] = map.size;
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
      End: (row, _, width) => [row, width - 1],
    };
    const press = (event) => {
      const map = current();
      if (!map || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") point(null);
      if (!keys[event.key]) return;
      event.preventDefault();
      const [height, width] = map.size;
      if (at.pixel === null) return point(Math.floor(height / 2) * width + Math.floor(width / 2)); // start in the center
      const [row, column] = keys[event.key](Math.floor(at.pixel / width), at.pixel % width, width);
      if (row >= 0 && row < height && column >= 0 && column < width) point(row * width + column);
    };

    /* Paint the small maps, once they are near. */
    const approach = () => {
      if (isNear) return;
      isNear = true;
      if (current()) fillMultiples(page.outline(at.image.size, at.image.channels, at.image.bytes));
    };

    const listen = () => {
      for (const frame of root.querySelectorAll(".frame")) {
        for (const kind of ["pointermove", "pointerdown"]) frame.addEventListener(kind, under);
      }
      // a selected pixel keeps a finger from scrolling the page, until another place is touched
      document.addEventListener("pointerdown", (event) => {
        if (event.pointerType === "touch" && !event.target.closest?.(".frame")) point(null);
      });
      find(".map canvas").addEventListener("keydown", press);
      find("select.by-method").addEventListener("change", (event) => choose({ method: event.target.value }));
      find("select.by-class").addEventListener("change", (event) => choose({ label: Number(event.target.value) }));
      for (const radio of root.querySelectorAll(".scale input")) {
        radio.addEventListener("change", () => choose({ isShared: radio.value === "shared" }));
      }
      find(".filters").addEventListener("submit", (event) => {
        event.preventDefault();
        const text = find(".by-index").value.trim();
        if (/^\d+$/.test(text)) open({ image: Number(text), method: null, class: null, layer: null, channel: null });
        else tellState("Enter the index of a test image: a whole number from 0.");
      });
      new ResizeObserver(fit).observe(find(".panels"));
      new IntersectionObserver((entries, observer) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        observer.disconnect();
        approach();
      }, { rootMargin: "400px" }).observe(find(".of-methods"));
    };

    const exported = () => ({
      image: at.image, method: at.method, label: at.label, map: current(), limit: limitOf(current()),
      logit: store.scores(at.image, at.label).logit,
      title: `${at.image.title}: relevance for ${classOf(at.label)} by ${at.method}`,
      details: described().slice(at.image.title.length).trim().replace(/^./, (letter) => letter.toUpperCase()),
    });
    const listenToActions = () => {
      find(".link").addEventListener("click", (event) => {
        keep();
        page.copyLink(event.target);
      });
      for (const kind of ["picture", "plain", "values"]) {
        find(`.${kind}`).addEventListener("click", () => page.explainExport[kind](exported(), page));
      }
    };

    const start = async () => {
      await store.ready;
      for (const place of [".strip legend", ".image figcaption"]) find(place).textContent = noun;
      find(".remarks").append(...data.remarks.map((text) => page.element("li", {}, text)));
      strip = page.explainStrip(root, store.images, page, (image) => choose({ image }));
      listen();
      listenToActions();
      page.onScheme(show);
      at.image = strip.first;
      strip.select(at.image);
      settle();
      await show();
    };
    const ready = start().catch((error) => {
      find(".explain").replaceChildren(page.element("p", { class: "notice" }, `This section cannot be shown: ${error.message}`));
    });
    if (data.has_images) {
      page.offerImages(async (index) => {
        await ready;
        return store.offered(index);
      });
    }
    // the section ignores the epoch slider
    const paint = () => {
      if (!strip) return;
      strip.paint();
      approach();
      byChannel.approach();
    };
    return { open, ready, paint };
  };
}
