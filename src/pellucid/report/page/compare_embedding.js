/* Embeddings of two models. data: {names, classes, steps, colours, indices, labels, predictions: {model: []}, planes:
   {model: {points, x, y}}, sprite: {uri, side, across} or null}. */
(() => {
  const PAD = 14;
  const REACH = 24; // distance in pixels at which a dot is selected

  pellucid.kinds.compare_embedding = (root, data, page) => {
    const { names, classes, steps, colours, indices, labels, predictions, planes, sprite } = data;
    const [stage, readout, legend] = [".planes", ".readout", ".legend"].map((name) => root.querySelector(name));
    const sheet = sprite ? page.picture(sprite.uri) : null;
    const pairs = names.map((_, second) => ({ second })).filter(({ second }) => second > 0 && planes[second]);
    const now = { shown: [], row: null, label: null };

    const plane = (model) => {
      const canvas = page.element("canvas", { tabindex: 0, role: "application", "aria-roledescription": "scatter plot" });
      const { points, x, y } = planes[model];
      const wrong = points.filter((row) => predictions[model][row] !== labels[row]).length;
      canvas.setAttribute("aria-label", `t-SNE of ${names[model]}: ${page.many(points.length, "test image")}, ${page.many(wrong, "error")}`);
      const placeOf = new Map(points.map((row, place) => [row, place]));
      const at = (row) => {
        const place = placeOf.get(row);
        if (place === undefined) return null;
        const side = canvas.clientWidth - 2 * PAD;
        return [PAD + (side * x[place]) / steps, PAD + (side * y[place]) / steps];
      };
      const figure = page.element("figure", {}, page.element("figcaption", {}, names[model]), canvas);
      return { model, canvas, points, at, figure };
    };

    const disc = (context, [x, y], radius) => {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
    };

    const draw = ({ model, canvas, points, at }) => {
      const side = canvas.clientWidth;
      if (!side) return;
      const dots = Math.round(side * devicePixelRatio);
      if (canvas.width !== dots) canvas.width = canvas.height = dots;
      const context = canvas.getContext("2d");
      const style = getComputedStyle(root);
      context.setTransform(dots / side, 0, 0, dots / side, 0, 0);
      context.clearRect(0, 0, side, side);
      const radius = points.length > 400 ? 2.2 : 3.2;
      for (const row of points) {
        context.globalAlpha = now.label === null || labels[row] === now.label ? 0.85 : 0.1;
        disc(context, at(row), radius);
        context.fillStyle = colours[labels[row]];
        context.fill();
        if (predictions[model][row] !== labels[row]) {
          disc(context, at(row), radius * 2.1);
          context.lineWidth = 1.6;
          context.strokeStyle = style.getPropertyValue("--ink");
          context.stroke();
        }
      }
      context.globalAlpha = 1;
      const place = now.row === null ? null : at(now.row);
      if (!place) return;
      disc(context, place, radius * 3.2);
      context.lineWidth = 3;
      context.strokeStyle = style.getPropertyValue("--accent");
      context.stroke();
      disc(context, place, radius + 1);
      context.fillStyle = colours[labels[now.row]];
      context.fill();
    };
    const drawAll = () => now.shown.forEach(draw);

    const tell = () => {
      const { row } = now;
      if (row === null) return readout.replaceChildren();
      const parts = sheet ? [page.tile(sheet, row, sprite.side, sprite.across, `Test image ${indices[row]}`)] : [];
      const outcomes = now.shown.map(({ model }) => {
        const prediction = predictions[model][row];
        const isRight = prediction === labels[row];
        return page.element("span", isRight ? {} : { class: "wrong" }, ` ${names[model]}: ${classes[prediction]} ${isRight ? "✓" : "✗"}.`);
      });
      return readout.replaceChildren(...parts, page.element("div", {},
        page.element("strong", {}, `${classes[labels[row]]} `), `(test image ${indices[row]}).`, ...outcomes));
    };
    const choose = (row) => {
      if (row === now.row) return;
      now.row = row;
      stage.dataset.image = row === null ? "" : indices[row];
      tell();
      drawAll();
    };

    const nearest = (one, event) => {
      const box = one.canvas.getBoundingClientRect();
      let [best, shortest] = [null, REACH];
      for (const row of one.points) {
        if (now.label !== null && labels[row] !== now.label) continue;
        const [x, y] = one.at(row);
        const distance = Math.hypot(x - (event.clientX - box.left), y - (event.clientY - box.top));
        if (distance < shortest) [best, shortest] = [row, distance];
      }
      return best;
    };

    const listen = (one) => {
      one.canvas.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") choose(nearest(one, event)); });
      one.canvas.addEventListener("click", (event) => choose(nearest(one, event)));
      one.canvas.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (event.key === "Escape") return choose(null);
        if (!step) return undefined;
        event.preventDefault();
        const rows = one.points.filter((row) => now.label === null || labels[row] === now.label);
        const place = rows.indexOf(now.row);
        return choose(rows[place < 0 ? (step > 0 ? 0 : rows.length - 1) : (place + step + rows.length) % rows.length] ?? null);
      });
    };

    const show = (position) => {
      now.shown = [0, pairs[position].second].map(plane);
      now.row = null;
      tell();
      stage.replaceChildren(...now.shown.map((one) => one.figure));
      now.shown.forEach(listen);
      drawAll();
    };

    if (classes.length <= 30) {
      for (const label of [...new Set(labels)].sort((a, b) => a - b)) {
        const swatch = page.element("span", { class: "swatch" });
        swatch.style.background = colours[label];
        const button = page.element("button", { type: "button", "aria-pressed": "false" }, swatch, classes[label]);
        button.addEventListener("click", () => {
          now.label = now.label === label ? null : label;
          for (const other of legend.children) other.setAttribute("aria-pressed", other === button && now.label !== null);
          choose(null);
          drawAll();
        });
        legend.append(button);
      }
    }
    page.choosePair(root, names, pairs, show);
    new ResizeObserver(drawAll).observe(stage);
    page.onScheme(drawAll);
    return null;
  };
})();
