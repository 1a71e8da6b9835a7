/* Interactive t-SNE embedding.

data: {steps, colours, scale, loss_range, confidence_range, images: {indices, labels}, test_images, thumbnails,
epochs: {epoch: {count, neighbors, packed, trustworthiness, knn_accuracy, knn_accuracy_embedding}}}.
packed: columns of `count` values: int32 rows, x, y, predictions and `neighbors` columns of rows; float32 confidences and
losses. Rows are indices into `images`, so that a dot keeps its image from epoch to epoch; x and y are in 0…steps, y
pointing down.
*/
{
  const NEIGHBORS = 8; // neighbors in the plane, for runs without those in the embedding
  const KEEPS_STILL = matchMedia("(prefers-reduced-motion: reduce)");
  const DARK = matchMedia("(prefers-color-scheme: dark)");

  /* Unpack an epoch: its rows and positions, the dots by row, and the rows of the neighbors by row. */
  const unpackEpoch = async (data, key, page) => {
    const { count, neighbors, packed } = data.epochs[key];
    const { buffer } = await page.unpack(packed);
    const whole = (column) => new Int32Array(buffer, 4 * column * count, count);
    const real = (column) => new Float32Array(buffer, 4 * (4 + neighbors + column) * count, count);
    const [rows, x, y, predictions] = [0, 1, 2, 3].map(whole);
    const near = Array.from({ length: neighbors }, (_, rank) => whole(4 + rank));
    const [confidences, losses] = [real(0), real(1)];
    const { indices, labels } = data.images;
    const epoch = { key, rows, x, y, dots: [], near: neighbors ? [] : null };
    rows.forEach((row, point) => {
      epoch.dots[row] = { index: indices[row], label: labels[row], prediction: predictions[point],
        confidence: confidences[point], loss: losses[point] };
      if (neighbors) epoch.near[row] = near.map((column) => column[point]);
    });
    return epoch;
  };

  pellucid.kinds.embedding = (root, data, page) => {
    const find = (selector) => root.querySelector(selector);
    const { movement, lens, dotColours, quoted, readQuery, syntax, painter, listen, showResults, showNeighbors, showErrors } = pellucid.embedding;
    const { percent, many } = page;
    const [canvas, stage, card, status, search] = ["canvas", ".stage", ".card", ".summary", "#embedding-search"].map(find);
    const { indices, labels } = data.images;
    const everyRow = indices.map((_, row) => row);
    const rowOf = new Map(indices.map((index, row) => [index, row]));
    const name = (label) => page.classes[label] ?? `class ${label}`;
    const names = Array.from({ length: Math.max(page.classes.length, data.colours.length) }, (_, label) => name(label));
    const present = [...new Set(labels)].sort((a, b) => a - b);
    const pictures = page.thumbnails(data.thumbnails);
    const looking = lens();
    const chosen = { classes: new Set(), errors: false, row: null, pinned: false, marked: [], mode: "class", query: null };
    const plane = { canvas, side: 0, looking, chosen, labels, everyRow, present, name,
      now: { key: null, rows: [], x: [], y: [], dots: [], near: null }, // dots[row] is undefined if the epoch lacks the image
      tints: { fill: [], ring: [], order: [] } }; // colors of the dots, and the rows from the bottom to the top

    const moves = movement(data, (isMoving) => {
      canvas.dataset.moving = isMoving;
      draw();
    });
    const isWrong = (row) => plane.now.dots[row] !== undefined && plane.now.dots[row].prediction !== labels[row];
    const isChosen = (row) => plane.now.dots[row] !== undefined && (!chosen.errors || isWrong(row))
      && (!chosen.classes.size || chosen.classes.has(labels[row])) && (!chosen.query?.test || chosen.query.test(plane.now.dots[row]));
    const isFiltered = () => chosen.errors || chosen.classes.size > 0 || Boolean(chosen.query?.test);

    /* --- colors -------------------------------------------------------------------------------------------- */

    let styles = new Map(); // values of CSS variables, read once per scheme, because reading one for each dot is slow
    const read = (property) => {
      if (!styles.has(property)) styles.set(property, getComputedStyle(find(".embedding")).getPropertyValue(property).trim());
      return styles.get(property);
    };
    const modes = dotColours(data, page, read);

    const tint = () => {
      const mode = modes[chosen.mode];
      const [fill, ring, height] = [[], [], []];
      for (const row of plane.now.rows) {
        const dot = plane.now.dots[row];
        [fill[row], height[row]] = [mode.fill(dot), mode.order(dot)];
        if (mode.ring && isWrong(row)) ring[row] = mode.ring(dot);
      }
      // dots that fade out, because this epoch lacks their image
      for (const row of everyRow) fill[row] ??= chosen.mode === "class" ? data.colours[labels[row]] : read("--unknown");
      plane.tints = { fill, ring, order: [...everyRow].sort((a, b) => (height[a] ?? -2) - (height[b] ?? -2)),
        ink: read("--ink"), card: read("--card"), accent: read("--accent") };
    };

    const showMode = () => {
      const mode = modes[chosen.mode];
      for (const button of find(".modes").querySelectorAll("button")) {
        button.setAttribute("aria-pressed", button.dataset.mode === chosen.mode);
      }
      find(".scale").replaceChildren(...mode.legend(Array.from(plane.now.rows, (row) => plane.now.dots[row])));
      find(".embedding").dataset.mode = chosen.mode;
      tint();
      draw();
    };
    for (const [key, { text, isAvailable }] of Object.entries(modes)) {
      const button = page.element("button", { type: "button", "data-mode": key }, text);
      button.disabled = !isAvailable;
      button.addEventListener("click", () => { chosen.mode = key; showMode(); });
      find(".modes").append(button);
    }

    const { place, radius, draw: paint } = painter(plane);
    let isFilling = false; // while a new epoch is filled in, which ends with one drawing
    const draw = () => {
      if (isFilling) return;
      paint();
      placeCard();
    };

    /* --- neighbors ----------------------------------------------------------------------------------------- */

    const nearInPlane = (row) => {
      const { rows, x, y } = plane.now;
      const at = rows.indexOf(row);
      const distances = Float64Array.from(rows, (_, point) => Math.hypot(x[point] - x[at], y[point] - y[at]));
      const others = Array.from(rows.keys()).filter((point) => point !== at);
      return others.sort((a, b) => distances[a] - distances[b] || a - b).slice(0, NEIGHBORS).map((point) => rows[point]);
    };
    const known = new Map(); // of the current epoch, by row
    const neighborsOf = (row) => {
      if (plane.now.dots[row] === undefined) return [];
      if (!known.has(row)) known.set(row, plane.now.near ? plane.now.near[row] : nearInPlane(row));
      return known.get(row);
    };

    /* --- card of the selected image ------------------------------------------------------------------------- */

    const sentences = (row) => {
      const { confidence, loss, prediction, label, index } = plane.now.dots[row];
      const lines = [
        page.element("strong", {}, name(label)),
        page.element("span", isWrong(row) ? { class: "wrong" } : {}, isWrong(row) ? `predicted as ${name(prediction)}` : "correct"),
      ];
      if (Number.isFinite(confidence)) lines.push(page.element("span", {}, `confidence ${percent(confidence)}`));
      if (Number.isFinite(loss)) lines.push(page.element("span", {}, `loss ${page.digits(loss, 2)}`));
      lines.push(page.element("span", { class: "pale" }, `test image ${index}`));
      return lines;
    };

    const fillCard = () => {
      const { row, pinned } = chosen;
      card.hidden = row === null;
      card.classList.toggle("pinned", pinned);
      if (row === null) return card.replaceChildren();
      const text = page.element("div", {}, ...sentences(row));
      let picture = pictures.canvas(indices[row], { "aria-hidden": "true" });
      if (pinned && "explain" in page.sections) {
        text.append(page.opener(indices[row], {}, "Explain"));
        // the same link, so one of the two is enough for the keyboard
        if (picture) picture = page.opener(indices[row], { tabindex: -1, "aria-label": `Explain test image ${indices[row]}` }, picture);
      }
      card.replaceChildren(...[picture].filter(Boolean), text);
      return placeCard();
    };

    const placeCard = () => {
      if (chosen.row === null) return;
      const [x, y] = place(chosen.row);
      const gap = radius() * 2.1 + 10;
      const { offsetWidth: width, offsetHeight: height } = card;
      const isNarrow = plane.side < 2.2 * width; // on narrow screens the card goes to the opposite edge, so as not to cover the neighbors
      const left = isNarrow ? x - width / 2 : x + gap + width <= plane.side ? x + gap : x - gap - width;
      const top = isNarrow ? (y < plane.side / 2 ? plane.side : 0) : y - height / 2;
      card.style.left = `${Math.max(6, Math.min(plane.side - width - 6, left))}px`;
      card.style.top = `${Math.max(6, Math.min(plane.side - height - 6, top))}px`;
    };

    /* Keep the pinned image and the highlighted class in the page's address. */
    const remember = () => {
      const [label = null, another] = chosen.classes;
      page.keep("embedding", { image: chosen.pinned ? indices[chosen.row] : null, class: another === undefined ? label : null });
    };

    const choose = (row, isPinned = false) => {
      if (row === chosen.row && isPinned === chosen.pinned) return;
      const wasPinned = chosen.pinned;
      Object.assign(chosen, { row, pinned: row !== null && isPinned });
      if (row !== null && isPinned) looking.show(moves.to[3 * row], moves.to[3 * row + 1]);
      if (chosen.pinned || wasPinned) {
        remember();
        fillNeighbors();
      }
      fillCard();
      draw();
    };

    /* --- legend, search and filters -------------------------------------------------------------------------- */

    const plot = { labels, name, pictures, dot: (row) => plane.now.dots[row], choose: (...given) => choose(...given),
      mark: (rows) => { chosen.marked = rows.filter((row) => plane.now.dots[row] !== undefined); draw(); } };
    const fillResults = showResults(find(".results"), plot, page);
    const writeNeighbors = showNeighbors(find(".neighbors"), plot, page);
    const fillTable = showErrors(find("details.table"), plot, page);
    const fillNeighbors = () => {
      const row = chosen.pinned ? chosen.row : null;
      writeNeighbors(row, { rows: row === null ? [] : neighborsOf(row), areExact: plane.now.near !== null });
    };

    const answer = () => {
      const { query } = chosen;
      if (query === null || query.problem) return fillResults(query);
      const { index } = query;
      // another image of the test set can still be explained
      if (index !== null && plane.now.dots[rowOf.get(index)] === undefined) {
        const exists = data.test_images === null || index < data.test_images;
        const link = exists && "explain" in page.sections ? page.opener(index, {}, "Explain it") : null;
        return fillResults({ link, problem: exists ? `Test image ${index} is not among the ${many(plane.now.rows.length, "image")} shown here.`
          : `There is no test image ${index}: the last one is ${data.test_images - 1}.` });
      }
      return fillResults({ words: query.words, of: plane.now.rows.length, rows: everyRow.filter(isChosen) });
    };

    const filter = () => {
      for (const button of find(".legend").children) {
        button.setAttribute("aria-pressed", chosen.classes.has(Number(button.dataset.label)));
      }
      find(".errors").setAttribute("aria-pressed", chosen.errors);
      find(".all").disabled = !isFiltered();
      if (chosen.row !== null && !isChosen(chosen.row)) choose(null);
      answer();
      draw();
    };
    for (const label of present) {
      const swatch = page.element("span", { class: "swatch" });
      swatch.style.background = data.colours[label];
      const button = page.element("button", { type: "button", "aria-pressed": "false", "data-label": label }, swatch, name(label));
      button.addEventListener("click", () => {
        if (!chosen.classes.delete(label)) chosen.classes.add(label);
        filter();
        remember();
      });
      find(".legend").append(button);
    }
    const look = (text) => {
      search.value = text;
      chosen.query = readQuery(text, names);
      filter();
    };
    search.addEventListener("input", () => look(search.value));
    find("form").addEventListener("submit", (event) => event.preventDefault());
    find(".errors").addEventListener("click", () => { chosen.errors = !chosen.errors; filter(); });
    find(".all").addEventListener("click", () => {
      chosen.classes.clear();
      chosen.errors = false;
      look("");
      remember();
    });

    const samples = [present[0], present[1] ?? present[0]].map((label) => quoted(name(label)));
    search.placeholder = samples.join("").length > 16 ? "class, wrong, index 1234…" : `${samples[0]}, true ${samples[0]} predicted ${samples[1]}, index 1234, wrong…`;
    find(".syntax dl").append(...syntax(...samples).map(([text, meaning]) =>
      page.element("div", {}, page.element("dt", {}, text), page.element("dd", {}, meaning))));
    find("datalist").append(...present.map((label) => page.element("option", { value: quoted(name(label)) })));

    /* Offer searches that find something in this epoch. */
    const fillExamples = () => {
      const dots = Array.from(plane.now.rows, (row) => plane.now.dots[row]);
      const confusions = new Map();
      for (const { label, prediction } of dots) {
        if (label === prediction) continue;
        const key = `true ${quoted(name(label))} predicted ${quoted(name(prediction))}`;
        confusions.set(key, (confusions.get(key) ?? 0) + 1);
      }
      const [most] = [...confusions].sort(([, a], [, b]) => b - a);
      const worst = dots.reduce((best, dot) => (dot.loss > (best?.loss ?? 0) ? dot : best), null);
      const texts = [quoted(name(labels[plane.now.rows[0]])), most?.[0], most && "wrong", "loss > 1", "confidence < 60%", worst && `index ${worst.index}`];
      const finds = (text) => dots.some(readQuery(text, names).test ?? (() => false));
      const useful = texts.filter((text) => text && finds(text));
      find(".examples").replaceChildren(...useful.map((text) => {
        const button = page.element("button", { type: "button" }, text);
        button.addEventListener("click", () => look(text));
        return button;
      }));
    };

    /* --- words ---------------------------------------------------------------------------------------------- */

    const tell = (epoch) => {
      const { trustworthiness, knn_accuracy: near, knn_accuracy_embedding: before } = data.epochs[plane.now.key];
      const wrong = everyRow.filter(isWrong);
      const count = plane.now.rows.length;
      const right = `${(count - wrong.length).toLocaleString("en")} correct (${percent(1 - wrong.length / count)})`;
      canvas.setAttribute("aria-label", `Epoch ${plane.now.key}: t-SNE of ${many(count, "test image")}, ${right}`);
      find(".which").textContent = page.stale(plane.now.key, epoch);
      const texts = [`Epoch ${plane.now.key}: ${many(count, "test image")}, ${right}.`];
      if (trustworthiness !== null) {
        texts.push(`Trustworthiness ${percent(trustworthiness)}: the extent to which neighbors in this plane are neighbors in the embedding (100%: all of them).`);
      }
      if (near !== null) {
        const there = before === null ? "" : `, and ${percent(before)} in the original embedding`;
        texts.push(`10-nearest-neighbor accuracy: ${percent(near)} in this plane${there}.`);
      }
      status.replaceChildren(...texts.map((text) => page.element("span", {}, `${text} `)));
      find(".errors").textContent = `Errors only (${wrong.length.toLocaleString("en")})`;
      fillTable(wrong);
    };

    Object.assign(plane, { moves, isChosen, isFiltered, neighborsOf, place, draw, choose,
      isDiamond: () => modes[chosen.mode].isDiamond ?? (() => false) });

    /* --- start ---------------------------------------------------------------------------------------------- */

    new ResizeObserver(() => { plane.side = stage.clientWidth; draw(); }).observe(stage);
    DARK.addEventListener("change", () => {
      styles = new Map();
      showMode();
    });
    listen(root, plane);
    find("details.table").open = matchMedia("(min-width: 56rem)").matches; // open by default if there is room next to the plane

    const unpacked = {}; // promises of epochs, each unpacked when it is first shown
    let latest = Promise.resolve();

    const reveal = async (epoch) => {
      const key = page.latest(data.epochs, epoch);
      const next = await (unpacked[key] ??= unpackEpoch(data, key, page));
      if (epoch !== page.epoch && !Number.isNaN(page.epoch)) return; // another one was selected meanwhile
      const isFirst = plane.now.key === null;
      plane.now = next;
      known.clear();
      chosen.marked = [];
      canvas.dataset.epoch = key;
      isFilling = true;
      tell(epoch);
      showMode();
      fillExamples();
      filter();
      fillNeighbors();
      isFilling = false;
      moves.go(plane.now, isFirst || KEEPS_STILL.matches);
      fillCard();
    };

    const open = async ({ image, class: label }) => {
      await latest;
      if (label !== null && present.includes(label)) chosen.classes = new Set([label]);
      if (image !== null && plane.now.dots[rowOf.get(image)] === undefined) look(`index ${image}`);
      else filter();
      const row = rowOf.get(image);
      if (row === undefined || plane.now.dots[row] === undefined) return;
      if (!isChosen(row)) { // the image is what was asked for
        chosen.classes.clear();
        chosen.errors = false;
        look("");
      }
      choose(row, true);
    };

    page.offerImages(async (index) => {
      const pixels = await pictures.pixels(index);
      if (!pixels) return null;
      // of the explained network, whatever epoch is shown
      const { key, isExact } = page.explained(data.epochs);
      const dot = isExact ? (await (unpacked[key] ??= unpackEpoch(data, key, page))).dots[rowOf.get(index)] : undefined;
      return { ...pixels, label: labels[rowOf.get(index)], prediction: dot?.prediction ?? null,
        confidence: Number.isFinite(dot?.confidence) ? dot.confidence : null };
    });

    let settle = null;
    const ready = new Promise((resolve) => { settle = resolve; });
    const show = (epoch) => {
      latest = reveal(epoch).catch((error) => page.guarded(root, () => { throw error; })()).then(settle);
    };
    return { show, open, ready };
  };
}
