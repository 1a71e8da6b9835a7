/* Interactive t-SNE embedding.

data: {steps, colours, scale, loss_range, confidence_range, images: {indices, labels}, test_images, thumbnails,
epochs: {epoch: {count, neighbors, packed, trustworthiness, knn_accuracy, knn_accuracy_embedding}}}.
packed: columns of `count` values: int32 rows, x, y, predictions and `neighbors` columns of rows; float32 confidences and
losses. Rows are indices into `images`, so that a dot keeps its image from epoch to epoch; x and y are in 0…steps, y
pointing down.
*/
{
  const PAD = 20; // CSS pixels at the edges, room for the rings of dots there
  const REACH = 22; // CSS pixels from a dot within which the pointer selects it
  const NEIGHBORS = 8; // neighbors in the plane, for runs without those in the embedding
  const KEEPS_STILL = matchMedia("(prefers-reduced-motion: reduce)");
  const DARK = matchMedia("(prefers-color-scheme: dark)");
  const DIM = 0.1; // opacity of dots that are filtered out

  const disc = (context, x, y, radius) => {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
  };

  const diamond = (context, x, y, radius) => {
    const reach = 1.5 * radius;
    context.beginPath();
    context.moveTo(x, y - reach);
    for (const [dx, dy] of [[reach, 0], [0, reach], [-reach, 0]]) context.lineTo(x + dx, y + dy);
    context.closePath();
  };

  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

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
    const { movement, lens, dotColours, readQuery, showResults, showNeighbors, showErrors } = pellucid.embedding;
    const { percent, many } = page;
    const [canvas, stage, card, status, search] = ["canvas", ".stage", ".card", ".summary", "#embedding-search"].map(find);
    const context = canvas.getContext("2d");
    const { indices, labels } = data.images;
    const everyRow = indices.map((_, row) => row);
    const rowOf = new Map(indices.map((index, row) => [index, row]));
    const name = (label) => page.classes[label] ?? `class ${label}`;
    const names = Array.from({ length: Math.max(page.classes.length, data.colours.length) }, (_, label) => name(label));
    const present = [...new Set(labels)].sort((a, b) => a - b);
    const pictures = page.thumbnails(data.thumbnails);
    const looking = lens();
    const chosen = { classes: new Set(), errors: false, row: null, pinned: false, marked: [], mode: "class", query: null };
    let now = { key: null, rows: [], x: [], y: [], dots: [], near: null }; // dots[row] is undefined if the epoch lacks the image
    let side = 0;

    const moves = movement(data, (isMoving) => {
      canvas.dataset.moving = isMoving;
      draw();
    });
    const isWrong = (row) => now.dots[row] !== undefined && now.dots[row].prediction !== labels[row];
    const isChosen = (row) => now.dots[row] !== undefined && (!chosen.errors || isWrong(row))
      && (!chosen.classes.size || chosen.classes.has(labels[row])) && (!chosen.query?.test || chosen.query.test(now.dots[row]));
    const isFiltered = () => chosen.errors || chosen.classes.size > 0 || Boolean(chosen.query?.test);

    /* --- colors -------------------------------------------------------------------------------------------- */

    const read = (property) => getComputedStyle(find(".embedding")).getPropertyValue(property).trim();
    const modes = dotColours(data, page, read);
    let tints = { fill: [], ring: [], order: [] }; // colors of the dots, and the rows from the bottom to the top

    const tint = () => {
      const mode = modes[chosen.mode];
      const [fill, ring, height] = [[], [], []];
      for (const row of now.rows) {
        const dot = now.dots[row];
        [fill[row], height[row]] = [mode.fill(dot), mode.order(dot)];
        if (mode.ring && isWrong(row)) ring[row] = mode.ring(dot);
      }
      // dots that fade out, because this epoch lacks their image
      for (const row of everyRow) fill[row] ??= chosen.mode === "class" ? data.colours[labels[row]] : read("--unknown");
      tints = { fill, ring, order: [...everyRow].sort((a, b) => (height[a] ?? -2) - (height[b] ?? -2)),
        ink: read("--ink"), card: read("--card"), accent: read("--accent") };
    };

    const showMode = () => {
      const mode = modes[chosen.mode];
      for (const button of find(".modes").querySelectorAll("button")) {
        button.setAttribute("aria-pressed", button.dataset.mode === chosen.mode);
      }
      find(".scale").replaceChildren(...mode.legend(Array.from(now.rows, (row) => now.dots[row])));
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

    /* --- drawing ------------------------------------------------------------------------------------------- */

    const place = (row) => {
      const { scale, x, y } = looking.view;
      const width = side - 2 * PAD;
      return [side / 2 + (moves.at[3 * row] - x) * scale * width, side / 2 + (moves.at[3 * row + 1] - y) * scale * width];
    };
    // dots grow more slowly than distances, so zooming in separates them
    const radius = () => Math.min(9, Math.max(2.2, 0.15 * side / Math.sqrt(moves.count)) * looking.view.scale ** 0.4);

    const drawDots = (rows, alpha) => {
      const size = radius();
      const { isDiamond = () => false } = modes[chosen.mode];
      for (const row of rows) {
        context.globalAlpha = moves.at[3 * row + 2] * alpha;
        context.fillStyle = tints.fill[row];
        (now.dots[row] && isDiamond(now.dots[row]) ? diamond : disc)(context, ...place(row), size);
        context.fill();
      }
      context.globalAlpha = 1;
    };

    const drawRing = (row, colour, ink, size) => {
      const [x, y] = place(row);
      context.globalAlpha = moves.at[3 * row + 2];
      for (const [radius, width, stroke] of [[size + 1.3, 0.7, ink], [size, 2, colour]]) {
        disc(context, x, y, radius);
        context.lineWidth = width;
        context.strokeStyle = stroke;
        context.stroke();
      }
      context.globalAlpha = 1;
    };

    const drawLines = (row, others) => {
      context.strokeStyle = tints.ink;
      context.lineWidth = 1;
      context.globalAlpha = 0.55;
      context.beginPath();
      for (const other of others) {
        context.moveTo(...place(row));
        context.lineTo(...place(other));
      }
      context.stroke();
      context.globalAlpha = 1;
    };

    const drawNames = (rows) => {
      if (present.length > 40) return;
      const byLabel = new Map(present.map((label) => [label, []]));
      for (const row of rows) byLabel.get(labels[row]).push(place(row));
      context.font = "700 16px system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.lineJoin = "round";
      for (const [label, places] of byLabel) {
        if (places.length < 3) continue;
        const [x, y] = [0, 1].map((axis) => median(places.map((one) => one[axis])));
        const text = name(label).length > 20 ? `${name(label).slice(0, 19)}…` : name(label);
        context.strokeStyle = tints.card;
        context.lineWidth = 4;
        context.strokeText(text, x, y);
        context.fillStyle = tints.ink;
        context.fillText(text, x, y);
      }
    };

    const draw = () => {
      const dots = side * devicePixelRatio;
      if (!dots) return;
      // setting the size of a canvas resets it, even to the same value
      if (canvas.width !== Math.round(dots)) canvas.width = canvas.height = Math.round(dots);
      // draw in CSS pixels on screens of any resolution
      context.setTransform(canvas.width / side, 0, 0, canvas.height / side, 0, 0);
      context.clearRect(0, 0, side, side);
      const visible = tints.order.filter((row) => moves.at[3 * row + 2] > 0);
      const meant = visible.filter((row) => isChosen(row) || (now.dots[row] === undefined && !isFiltered()));
      const linked = chosen.pinned ? neighborsOf(chosen.row) : [];
      if (isFiltered()) drawDots(visible.filter((row) => !isChosen(row)), DIM);
      drawLines(chosen.row, linked);
      drawDots(meant, 0.85);
      const wrong = meant.filter((row) => tints.ring[row] !== undefined);
      const size = radius() * (wrong.length > 150 ? 1.5 : 2.1); // smaller rings if there are many, so that they don't hide the dots
      for (const row of wrong) drawRing(row, tints.ring[row], tints.ink, size);
      drawNames(meant);
      drawDots(linked, 1);
      for (const row of [...linked, ...chosen.marked]) drawRing(row, tints.accent, tints.card, radius() + 3);
      for (const row of chosen.marked) drawRing(row, tints.accent, tints.card, radius() + 7);
      if (chosen.row !== null) drawRing(chosen.row, tints.accent, tints.card, radius() * 2.1 + 4);
      if (chosen.row !== null) drawDots([chosen.row], 1);
      placeCard();
    };

    /* --- neighbors ----------------------------------------------------------------------------------------- */

    const nearInPlane = (row) => {
      const distance = (other) => Math.hypot(...[0, 1].map((axis) => moves.to[3 * other + axis] - moves.to[3 * row + axis]));
      const others = Array.from(now.rows).filter((other) => other !== row);
      return others.sort((a, b) => distance(a) - distance(b) || a - b).slice(0, NEIGHBORS);
    };
    const known = new Map(); // of the current epoch, by row
    const neighborsOf = (row) => {
      if (now.dots[row] === undefined) return [];
      if (!known.has(row)) known.set(row, now.near ? now.near[row] : nearInPlane(row));
      return known.get(row);
    };

    /* --- card of the selected image ------------------------------------------------------------------------- */

    const sentences = (row) => {
      const { confidence, loss, prediction, label, index } = now.dots[row];
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
      if (pinned && "explain" in page.sections) text.append(page.opener(indices[row], {}, "Explain"));
      card.replaceChildren(...[pictures.canvas(indices[row], { "aria-hidden": "true" })].filter(Boolean), text);
      return placeCard();
    };

    const placeCard = () => {
      if (chosen.row === null) return;
      const [x, y] = place(chosen.row);
      const gap = radius() * 2.1 + 10;
      const { offsetWidth: width, offsetHeight: height } = card;
      const isNarrow = side < 2.2 * width; // on narrow screens the card goes to the opposite edge, so as not to cover the neighbors
      const left = isNarrow ? x - width / 2 : x + gap + width <= side ? x + gap : x - gap - width;
      const top = isNarrow ? (y < side / 2 ? side : 0) : y - height / 2;
      card.style.left = `${Math.max(6, Math.min(side - width - 6, left))}px`;
      card.style.top = `${Math.max(6, Math.min(side - height - 6, top))}px`;
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

    /* --- pointer -------------------------------------------------------------------------------------------- */

    const nearest = (event) => {
      const box = canvas.getBoundingClientRect();
      let [best, shortest] = [null, REACH];
      for (let row = 0; row < moves.count; row += 1) {
        if (!isChosen(row)) continue;
        const [x, y] = place(row);
        const distance = Math.hypot(x - (event.clientX - box.left), y - (event.clientY - box.top));
        if (distance < shortest) [best, shortest] = [row, distance];
      }
      return best;
    };

    let held = null; // position where the pointer went down, and whether it has dragged the plane since
    canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, y: event.clientY, dragged: false };
      // a drag may leave the canvas
      if (looking.view.scale > 1) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (held && looking.view.scale > 1) {
        const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
        // the pointer may move by a few pixels during a click
        if (!held.dragged && Math.hypot(dx, dy) < 5) return;
        const width = (side - 2 * PAD) * looking.view.scale;
        looking.shift(dx / width, dy / width);
        held = { x: event.clientX, y: event.clientY, dragged: true };
        draw();
      } else if (!chosen.pinned && event.pointerType === "mouse") choose(nearest(event));
    });
    canvas.addEventListener("pointerup", (event) => {
      const row = nearest(event);
      if (held && !held.dragged) choose(row, row !== null && !(chosen.pinned && row === chosen.row));
      held = null;
    });
    canvas.addEventListener("pointercancel", () => { held = null; });
    canvas.addEventListener("pointerleave", () => { if (!chosen.pinned && !held) choose(null); });

    const enlarge = (factor, around) => {
      looking.zoom(factor, around);
      // touches drag a magnified plane, and otherwise scroll the page
      canvas.style.touchAction = looking.view.scale > 1 ? "none" : "pan-y";
      find('[data-zoom="0"]').disabled = looking.view.scale === 1;
      draw();
    };
    // not passive, because preventDefault has no effect in a passive listener
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return; // let the page scroll
      event.preventDefault();
      const { scale, x, y } = looking.view;
      const box = canvas.getBoundingClientRect();
      const width = (side - 2 * PAD) * scale;
      const around = [x + (event.clientX - box.left - side / 2) / width, y + (event.clientY - box.top - side / 2) / width];
      enlarge(Math.exp(-event.deltaY / 400), around);
    }, { passive: false });
    for (const button of root.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => enlarge(Number(button.dataset.zoom)));
    }

    /* --- keyboard ------------------------------------------------------------------------------------------- */

    const candidates = () => everyRow.filter(isChosen);

    /* Return the next dot in a direction; sideways distance counts three times, to prefer dots straight ahead. */
    const ahead = (dx, dy) => {
      const rows = candidates();
      const start = chosen.row ?? null;
      const [x, y] = start === null ? [side / 2, side / 2] : place(start);
      let [best, least] = [start ?? rows[0] ?? null, Infinity];
      for (const row of rows) {
        if (row === start) continue;
        const [right, down] = [place(row)[0] - x, place(row)[1] - y];
        const [along, aside] = [right * dx + down * dy, Math.abs(right * dy) + Math.abs(down * dx)];
        const cost = start === null ? Math.hypot(right, down) : along + 3 * aside;
        if ((start === null || along > 0.5) && cost < least) [best, least] = [row, cost];
      }
      return best;
    };
    const next = (by) => {
      const rows = candidates();
      const position = rows.indexOf(chosen.row);
      if (position < 0) return rows[by > 0 ? 0 : rows.length - 1] ?? null;
      return rows[(position + by + rows.length) % rows.length];
    };
    const goTo = (row) => {
      if (row !== null) looking.show(moves.to[3 * row], moves.to[3 * row + 1]);
      choose(row, chosen.pinned && row === chosen.row);
    };
    const keys = {
      ArrowLeft: () => goTo(ahead(-1, 0)),
      ArrowRight: () => goTo(ahead(1, 0)),
      ArrowUp: () => goTo(ahead(0, -1)),
      ArrowDown: () => goTo(ahead(0, 1)),
      PageDown: () => goTo(next(1)),
      PageUp: () => goTo(next(-1)),
      Enter: () => choose(chosen.row, !chosen.pinned),
      " ": () => choose(chosen.row, !chosen.pinned),
      Escape: () => choose(null),
      "+": () => enlarge(1.5),
      "-": () => enlarge(1 / 1.5),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });

    /* --- legend, search and filters -------------------------------------------------------------------------- */

    const plot = { labels, name, pictures, dot: (row) => now.dots[row], choose: (...given) => choose(...given),
      mark: (rows) => { chosen.marked = rows.filter((row) => now.dots[row] !== undefined); draw(); } };
    const fillResults = showResults(find(".results"), plot, page);
    const writeNeighbors = showNeighbors(find(".neighbors"), plot, page);
    const fillTable = showErrors(find("details.table"), plot, page);
    const fillNeighbors = () => {
      const row = chosen.pinned ? chosen.row : null;
      writeNeighbors(row, { rows: row === null ? [] : neighborsOf(row), areExact: now.near !== null });
    };

    const answer = () => {
      const { query } = chosen;
      if (query === null || query.problem) return fillResults(query);
      const { index } = query;
      // another image of the test set can still be explained
      if (index !== null && now.dots[rowOf.get(index)] === undefined) {
        const exists = data.test_images === null || index < data.test_images;
        const link = exists && "explain" in page.sections ? page.opener(index, {}, "Explain it") : null;
        return fillResults({ link, problem: exists ? `Test image ${index} is not among the ${many(now.rows.length, "image")} shown here.`
          : `There is no test image ${index}: the last one is ${data.test_images - 1}.` });
      }
      return fillResults({ words: query.words, of: now.rows.length, rows: everyRow.filter(isChosen) });
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

    const quoted = (text) => (/^[\p{L}\p{N}_-]+$/u.test(text) ? text : `"${text}"`);
    find("datalist").append(...present.map((label) => page.element("option", { value: quoted(name(label)) })));

    /* Offer searches that find something in this epoch. */
    const fillExamples = () => {
      const dots = Array.from(now.rows, (row) => now.dots[row]);
      const confusions = new Map();
      for (const { label, prediction } of dots) {
        if (label === prediction) continue;
        const key = `true ${quoted(name(label))} predicted ${quoted(name(prediction))}`;
        confusions.set(key, (confusions.get(key) ?? 0) + 1);
      }
      const [most] = [...confusions].sort(([, a], [, b]) => b - a);
      const worst = dots.reduce((best, dot) => (dot.loss > (best?.loss ?? 0) ? dot : best), null);
      const texts = [quoted(name(labels[now.rows[0]])), most?.[0], most && "wrong", "loss > 1", "confidence < 60%", worst && `index ${worst.index}`];
      const useful = texts.filter((text) => text && dots.some((dot) => readQuery(text, names).test?.(dot)));
      find(".examples").replaceChildren(...useful.map((text) => {
        const button = page.element("button", { type: "button" }, text);
        button.addEventListener("click", () => look(text));
        return button;
      }));
    };

    /* --- words ---------------------------------------------------------------------------------------------- */

    const tell = (epoch) => {
      const { trustworthiness, knn_accuracy: near, knn_accuracy_embedding: before } = data.epochs[now.key];
      const wrong = everyRow.filter(isWrong);
      const count = now.rows.length;
      const right = `${(count - wrong.length).toLocaleString("en")} correct (${percent(1 - wrong.length / count)})`;
      canvas.setAttribute("aria-label", `Epoch ${now.key}: t-SNE of ${many(count, "test image")}, ${right}`);
      find(".which").textContent = page.stale(now.key, epoch);
      const texts = [`Epoch ${now.key}: ${many(count, "test image")}, ${right}.`];
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

    /* --- start ---------------------------------------------------------------------------------------------- */

    new ResizeObserver(() => { side = stage.clientWidth; draw(); }).observe(stage);
    DARK.addEventListener("change", showMode);
    enlarge(0);
    find("details.table").open = matchMedia("(min-width: 56rem)").matches; // open by default if there is room next to the plane

    const unpacked = {}; // promises of epochs, each unpacked when it is first shown
    let latest = Promise.resolve();

    const reveal = async (epoch) => {
      const key = page.latest(data.epochs, epoch);
      const next = await (unpacked[key] ??= unpackEpoch(data, key, page));
      if (epoch !== page.epoch && !Number.isNaN(page.epoch)) return; // another one was selected meanwhile
      const isFirst = now.key === null;
      now = next;
      known.clear();
      chosen.marked = [];
      canvas.dataset.epoch = key;
      moves.go(now, isFirst || KEEPS_STILL.matches);
      tell(epoch);
      showMode();
      fillExamples();
      filter();
      fillNeighbors();
      fillCard();
    };

    const open = async ({ image, class: label }) => {
      await latest;
      if (label !== null && present.includes(label)) chosen.classes = new Set([label]);
      if (image !== null && now.dots[rowOf.get(image)] === undefined) look(`index ${image}`);
      else filter();
      const row = rowOf.get(image);
      if (row === undefined || now.dots[row] === undefined) return;
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
      await latest;
      const dot = now.dots[rowOf.get(index)];
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
