/* Interactive t-SNE embedding.

data: {steps, colours, images: {indices, labels}, sprite: {uri, side, across} or null,
epochs: {epoch: {rows, x, y, predictions, confidences or null, trustworthiness, knn_accuracy, knn_accuracy_embedding}}}.
rows are indices into `images`, so that a dot keeps its image from epoch to epoch; x and y are in 0…steps, y pointing down.
*/
{
  const PAD = 20; // CSS pixels at the edges, room for the rings of dots there
  const REACH = 22; // CSS pixels from a dot within which the pointer selects it
  const MORPH = 600; // milliseconds of the transition between epochs
  const KEEPS_STILL = matchMedia("(prefers-reduced-motion: reduce)");
  const DIM = 0.1; // opacity of dots that are filtered out

  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const many = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
  const ease = (share) => (share < 0.5 ? 2 * share * share : 1 - 2 * (1 - share) ** 2);

  /* Animated positions (0…1) and opacity of each image, as triples (x, y, opacity) in flat arrays. */
  const movement = (data, redraw) => {
    const count = data.images.indices.length;
    const [from, at, to] = [0, 1, 2].map(() => new Float64Array(3 * count));
    let frame = 0;
    const step = (began) => (now) => {
      const share = Math.min(1, Math.max(0, (now - began) / MORPH));
      for (let i = 0; i < at.length; i += 1) at[i] = from[i] + ease(share) * (to[i] - from[i]);
      frame = share < 1 ? requestAnimationFrame(step(began)) : 0;
      redraw(share < 1);
    };
    const towards = (epoch) => {
      const seen = new Set(epoch.rows);
      for (let row = 0; row < count; row += 1) if (!seen.has(row)) to[3 * row + 2] = 0; // fade out in place
      epoch.rows.forEach((row, point) => {
        const place = [epoch.x[point] / data.steps, epoch.y[point] / data.steps, 1];
        to.set(place, 3 * row);
        if (at[3 * row + 2] === 0) at.set([place[0], place[1], 0], 3 * row); // fade in at the new position
      });
    };
    const go = (epoch, isInstant) => {
      cancelAnimationFrame(frame);
      towards(epoch);
      from.set(at);
      if (!isInstant) {
        frame = requestAnimationFrame(step(performance.now()));
        return redraw(true);
      }
      at.set(to);
      return redraw(false);
    };
    return { at, to, count, go };
  };

  /* Visible part of the plane: magnified by `scale` around the center (x, y). */
  const lens = () => {
    const view = { scale: 1, x: 0.5, y: 0.5 };
    const within = () => {
      const half = 0.5 / view.scale;
      view.x = Math.min(1 - half, Math.max(half, view.x));
      view.y = Math.min(1 - half, Math.max(half, view.y));
    };
    const zoom = (factor, [x, y] = [view.x, view.y]) => {
      // a factor of 0 resets the view
      const scale = factor === 0 ? 1 : Math.min(16, Math.max(1, view.scale * factor));
      const ratio = view.scale / scale;
      view.x = x + (view.x - x) * ratio; // keep the point under the pointer fixed
      view.y = y + (view.y - y) * ratio;
      view.scale = scale;
      within();
    };
    const shift = (dx, dy) => { view.x -= dx; view.y -= dy; within(); };
    const show = (x, y) => { // move only if the point is out of sight
      const half = 0.48 / view.scale;
      if (Math.abs(x - view.x) > half || Math.abs(y - view.y) > half) Object.assign(view, { x, y });
      within();
    };
    return { view, zoom, shift, show };
  };

  /* Current colors of the page, which depend on light or dark mode. */
  const inks = (element) => {
    const style = getComputedStyle(element);
    const [ink, card, accent] = ["--ink", "--card", "--accent"].map((name) => style.getPropertyValue(name).trim());
    return { ink, card, accent };
  };

  const disc = (context, x, y, radius) => {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
  };

  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

  pellucid.kinds.embedding = (root, data, page) => {
    const find = (selector) => root.querySelector(selector);
    const [canvas, stage, card, status] = ["canvas", ".stage", ".card", ".summary"].map(find);
    const context = canvas.getContext("2d");
    const { indices, labels } = data.images;
    const name = (label) => page.classes[label] ?? `class ${label}`;
    const present = [...new Set(labels)].sort((a, b) => a - b);
    const looking = lens();
    const chosen = { classes: new Set(), errors: false, row: null, pinned: false };
    const now = { epoch: null, predictions: [], confidences: [] }; // by row; undefined if the epoch lacks the image
    let side = 0;
    let sprite = null;

    const moves = movement(data, (isMoving) => {
      canvas.dataset.moving = isMoving;
      draw();
    });
    const isWrong = (row) => now.predictions[row] !== undefined && now.predictions[row] !== labels[row];
    const isChosen = (row) => now.predictions[row] !== undefined && (!chosen.errors || isWrong(row))
      && (!chosen.classes.size || chosen.classes.has(labels[row]));
    const isFiltered = () => chosen.errors || chosen.classes.size > 0;

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
      for (const row of rows) {
        context.globalAlpha = moves.at[3 * row + 2] * alpha;
        context.fillStyle = data.colours[labels[row]];
        disc(context, ...place(row), size);
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

    const drawNames = (rows, { ink, card: ground }) => {
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
        context.strokeStyle = ground;
        context.lineWidth = 4;
        context.strokeText(text, x, y);
        context.fillStyle = ink;
        context.fillText(text, x, y);
      }
    };

    const draw = () => {
      const dots = side * devicePixelRatio;
      if (!dots) return;
      // setting the size of a canvas resets it, even to the same value
      if (canvas.width !== Math.round(dots)) canvas.width = canvas.height = Math.round(dots);
      const colours = inks(root);
      // draw in CSS pixels on screens of any resolution
      context.setTransform(canvas.width / side, 0, 0, canvas.height / side, 0, 0);
      context.clearRect(0, 0, side, side);
      const visible = indices.map((_, row) => row).filter((row) => moves.at[3 * row + 2] > 0);
      const meant = visible.filter((row) => isChosen(row) || now.predictions[row] === undefined);
      if (isFiltered()) drawDots(visible.filter((row) => !isChosen(row)), DIM);
      drawDots(isFiltered() ? meant.filter(isChosen) : meant, 0.85);
      const wrong = meant.filter(isWrong);
      const size = radius() * (wrong.length > 150 ? 1.5 : 2.1); // smaller rings if there are many, so that they don't hide the dots
      for (const row of wrong) drawRing(row, data.colours[now.predictions[row]], colours.ink, size);
      drawNames(isFiltered() ? meant.filter(isChosen) : meant, colours);
      if (chosen.row !== null) drawRing(chosen.row, colours.accent, colours.card, radius() * 2.1 + 4);
      if (chosen.row !== null) drawDots([chosen.row], 1);
      placeCard();
    };

    /* --- card of the selected image ------------------------------------------------------------------------- */

    const thumbnail = (row) => {
      const { side: pixels, across } = data.sprite;
      const made = page.element("canvas", { width: pixels, height: pixels, class: "pixels", "aria-hidden": "true" });
      const [left, top] = [pixels * (row % across), pixels * Math.floor(row / across)];
      made.getContext("2d").drawImage(sprite, left, top, pixels, pixels, 0, 0, pixels, pixels);
      return made;
    };

    const sentences = (row) => {
      const confidence = now.confidences[row];
      const outcome = isWrong(row) ? `predicted as ${name(now.predictions[row])}` : "correct";
      const lines = [
        page.element("strong", {}, name(labels[row])),
        page.element("span", isWrong(row) ? { class: "wrong" } : {}, outcome),
      ];
      if (typeof confidence === "number") lines.push(page.element("span", {}, `confidence ${percent(confidence)}`));
      lines.push(page.element("span", { class: "pale" }, `test image ${indices[row]}`));
      return lines;
    };

    const fillCard = () => {
      const { row } = chosen;
      card.hidden = row === null;
      card.classList.toggle("pinned", chosen.pinned);
      if (row === null) return card.replaceChildren();
      const text = page.element("div", {}, ...sentences(row));
      card.replaceChildren(...(sprite ? [thumbnail(row)] : []), text);
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

    const choose = (row, isPinned = false) => {
      if (row === chosen.row && isPinned === chosen.pinned) return;
      Object.assign(chosen, { row, pinned: row !== null && isPinned });
      if (row !== null && isPinned) looking.show(moves.to[3 * row], moves.to[3 * row + 1]);
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

    const candidates = () => indices.map((_, row) => row).filter(isChosen);

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

    /* --- legend and filters --------------------------------------------------------------------------------- */

    const filter = () => {
      for (const button of find(".legend").children) {
        button.setAttribute("aria-pressed", chosen.classes.has(Number(button.dataset.label)));
      }
      find(".errors").setAttribute("aria-pressed", chosen.errors);
      find(".all").disabled = !isFiltered();
      if (chosen.row !== null && !isChosen(chosen.row)) choose(null);
      draw();
    };
    for (const label of present) {
      const swatch = page.element("span", { class: "swatch" });
      swatch.style.background = data.colours[label];
      const button = page.element("button", { type: "button", "aria-pressed": "false", "data-label": label }, swatch, name(label));
      button.addEventListener("click", () => {
        if (!chosen.classes.delete(label)) chosen.classes.add(label);
        filter();
      });
      find(".legend").append(button);
    }
    find(".errors").addEventListener("click", () => { chosen.errors = !chosen.errors; filter(); });
    find(".all").addEventListener("click", () => { chosen.classes.clear(); chosen.errors = false; filter(); });

    /* --- words ---------------------------------------------------------------------------------------------- */

    const rowOfError = (row) => {
      const go = page.element("button", { type: "button", "aria-label": `Show test image ${indices[row]}` }, String(indices[row]));
      go.addEventListener("click", () => choose(row, true));
      const confidence = now.confidences[row];
      return page.element("tr", {}, page.element("td", {}, go), page.element("td", {}, name(labels[row])),
        page.element("td", {}, name(now.predictions[row])),
        page.element("td", {}, typeof confidence === "number" ? percent(confidence) : "–"));
    };
    const fillTable = () => {
      const wrong = indices.map((_, row) => row).filter(isWrong);
      find("summary").textContent = `Table of ${many(wrong.length, "error")}`;
      // the table can be long, so it is built only while it is open
      if (!find("details").open) return find(".rows").replaceChildren();
      const heads = ["Test image", "True class", "Prediction", "Confidence"].map((text) => page.element("th", { scope: "col" }, text));
      return find(".rows").replaceChildren(page.element("table", {},
        page.element("thead", {}, page.element("tr", {}, ...heads)), page.element("tbody", {}, ...wrong.map(rowOfError))));
    };
    find("details").addEventListener("toggle", fillTable);

    const tell = (key, epoch) => {
      const { rows, trustworthiness, knn_accuracy: near, knn_accuracy_embedding: before } = data.epochs[key];
      const wrong = rows.filter(isWrong).length;
      const right = `${(rows.length - wrong).toLocaleString("en")} correct (${percent(1 - wrong / rows.length)})`;
      canvas.setAttribute("aria-label", `Epoch ${key}: t-SNE of ${many(rows.length, "test image")}, ${right}`);
      find(".which").textContent = page.stale(key, epoch);
      const texts = [`Epoch ${key}: ${many(rows.length, "test image")}, ${right}.`];
      if (trustworthiness !== null) {
        texts.push(`Trustworthiness ${percent(trustworthiness)}: the extent to which neighbors in this plane are neighbors in the embedding (100%: all of them).`);
      }
      if (near !== null) {
        const there = before === null ? "" : `, and ${percent(before)} in the original embedding`;
        texts.push(`10-nearest-neighbor accuracy: ${percent(near)} in this plane${there}.`);
      }
      status.replaceChildren(...texts.map((text) => page.element("span", {}, `${text} `)));
      find(".errors").textContent = `Errors only (${wrong.toLocaleString("en")})`;
    };

    /* --- start ---------------------------------------------------------------------------------------------- */

    new ResizeObserver(() => { side = stage.clientWidth; draw(); }).observe(stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    if (data.sprite) {
      const image = new Image();
      image.src = data.sprite.uri;
      image.decode().then(() => { sprite = image; fillCard(); }, () => {}); // if the sprite cannot be decoded, cards show text only
    }
    enlarge(0);
    find("details").open = matchMedia("(min-width: 56rem)").matches; // open by default if there is room next to the plane

    return (epoch) => {
      const key = page.latest(data.epochs, epoch);
      const { rows, predictions, confidences } = data.epochs[key];
      const isFirst = now.epoch === null;
      Object.assign(now, { epoch: key, predictions: [], confidences: [] });
      rows.forEach((row, point) => {
        now.predictions[row] = predictions[point];
        now.confidences[row] = confidences?.[point];
      });
      canvas.dataset.epoch = key;
      tell(key, epoch);
      filter();
      fillTable();
      fillCard();
      moves.go(data.epochs[key], isFirst || KEEPS_STILL.matches);
    };
  };
}
