/* Learning curves. data: {lines: [{epoch, train_loss, …}], best}. */
(() => {
  const SIZE = { width: 560, height: 240, left: 60, right: 16, top: 22, bottom: 34 };
  const PARTS = ["train", "validation", "test"];
  const QUANTITIES = {
    loss: { title: "Loss", text: (value) => value.toPrecision(3) },
    accuracy: { title: "Accuracy", text: (value) => `${(100 * value).toFixed(2)}%` },
  };
  const MOST_MARKS = 30; // markers would overlap with more points
  const format = (quantity, value) => (value === null ? "–" : QUANTITIES[quantity].text(value));

  /* Return a function from a value to its height, 0 (bottom) to 1 (top), and the ticks; logarithmic beyond a factor of 10. */
  const lossScale = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (low > 0 && high / low > 10) {
      // the axis ends at half decades
      const [from, to] = [Math.floor(Math.log10(low) * 2) / 2, Math.ceil(Math.log10(high) * 2) / 2];
      const ticks = [1, 2, 5].flatMap((digit) => Array.from({ length: 40 }, (_, power) => digit * 10 ** (power - 30)));
      // 1% of tolerance for rounding in the powers of ten
      const inside = ticks.filter((tick) => tick >= 10 ** from * 0.99 && tick <= 10 ** to * 1.01).sort((a, b) => a - b);
      return { place: (value) => (Math.log10(value) - from) / (to - from), ticks: thinned(inside), note: "logarithmic" };
    }
    const top = high > 0 ? high * 1.05 : 1;
    return { place: (value) => value / top, ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => Number((top * share).toPrecision(2))), note: "" };
  };

  const thinned = (ticks) => {
    const decades = ticks.filter((tick) => Math.abs(Math.log10(tick) - Math.round(Math.log10(tick))) < 1e-9);
    return ticks.length <= 7 ? ticks : decades.length >= 2 ? decades : ticks.filter((_, index) => index % 2 === 0);
  };

  /* Above 95%, use a logarithmic scale of the error, so that 99% and 99.5% are distinguishable. */
  const accuracyScale = (values) => {
    const best = Math.max(...values);
    if (best < 0.95) return { place: (value) => value, ticks: [0, 0.25, 0.5, 0.75, 1], note: "" };
    // an error of 0 has no logarithm: it is drawn at half of the smallest nonzero error
    const least = Math.max(Math.min(1, ...values.filter((value) => value < 1).map((value) => 1 - value)) / 2, 1e-4);
    const stretch = (value) => -Math.log10(Math.max(1 - value, least));
    const top = -Math.log10(least);
    const ticks = [0, 0.5, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999].filter((tick) => -Math.log10(1 - tick) <= top + 0.01);
    return { place: (value) => stretch(value) / top, ticks, note: "log scale of the error" };
  };

  const shapes = {
    train: (x, y) => `M${x - 3.5} ${y - 3.5}h7v7h-7z`,
    validation: (x, y) => `M${x} ${y - 4.5}l4.5 8h-9z`,
    test: (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
  };

  const sample = (part, page) => page.drawn("svg", { viewBox: "0 0 38 16", "aria-hidden": "true" },
    page.drawn("path", { class: `line ${part}`, d: "M0 8H38" }), page.drawn("path", { class: `mark ${part}`, d: shapes[part](19, 8) }));

  const axisText = (quantity, tick) =>
    (quantity === "accuracy" ? `${Number((100 * tick).toFixed(2))}%` : String(Number(tick.toPrecision(2))));

  const chart = (quantity, data, page) => {
    const parts = PARTS.filter((part) => data.lines.some((line) => line[`${part}_${quantity}`] !== null));
    const values = parts.flatMap((part) => data.lines.map((line) => line[`${part}_${quantity}`])).filter((value) => value !== null);
    if (!values.length) return null;
    const scale = quantity === "loss" ? lossScale(values) : accuracyScale(values);
    const epochs = data.lines.map((line) => line.epoch);
    const [first, last] = [epochs[0], epochs[epochs.length - 1]];
    const across = (epoch) => SIZE.left + (SIZE.width - SIZE.left - SIZE.right) * (last > first ? (epoch - first) / (last - first) : 0.5);
    const up = (value) => SIZE.height - SIZE.bottom - (SIZE.height - SIZE.top - SIZE.bottom) * scale.place(value);

    const plot = page.drawn("svg", {
      class: "plot", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, tabindex: 0, role: "slider",
      "aria-label": `${QUANTITIES[quantity].title} by epoch`, "aria-valuemin": first, "aria-valuemax": last,
    });
    for (const tick of scale.ticks) {
      plot.append(page.drawn("path", { class: "axis", d: `M${SIZE.left} ${up(tick)}H${SIZE.width - SIZE.right}` }),
        page.drawn("text", { x: SIZE.left - 6, y: up(tick) + 4, "text-anchor": "end" }, axisText(quantity, tick)));
    }
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => epochs.length / step <= 11) ?? 1000;
    for (const epoch of epochs.filter((number) => number % every === 0)) {
      plot.append(page.drawn("text", { x: across(epoch), y: SIZE.height - 12, "text-anchor": "middle" }, String(epoch)));
    }
    plot.append(page.drawn("text", { class: "word", x: 0, y: SIZE.height - 12 }, "epoch"));
    if (data.best !== null && epochs.includes(data.best)) {
      const near = across(data.best) > SIZE.width / 2 ? "end" : "start";
      plot.append(page.drawn("path", { class: "best", d: `M${across(data.best)} ${SIZE.top - 6}V${SIZE.height - SIZE.bottom}` }),
        page.drawn("text", { x: across(data.best), y: 13, "text-anchor": near }, `best: epoch ${data.best}`));
    }
    const chosen = page.drawn("path", { class: "chosen" });
    plot.append(chosen);
    for (const part of parts) {
      const points = data.lines.filter((line) => line[`${part}_${quantity}`] !== null)
        .map((line) => [across(line.epoch), up(line[`${part}_${quantity}`])]);
      plot.append(page.drawn("path", { class: `line ${part}`, d: `M${points.map((point) => point.join(" ")).join("L")}` }));
      if (points.length <= MOST_MARKS) {
        plot.append(page.drawn("path", { class: `mark ${part}`, d: points.map(([x, y]) => shapes[part](x, y)).join("") }));
      }
    }

    const numbers = Object.fromEntries(parts.map((part) => [part, page.element("b")]));
    const legend = page.element("ul", { class: "legend" },
      ...parts.map((part) => page.element("li", {}, sample(part, page), part, numbers[part])));
    const at = page.element("span", { class: "at" });
    const show = (epoch) => {
      const line = data.lines[epochs.indexOf(epoch)];
      chosen.setAttribute("d", `M${across(line.epoch)} ${SIZE.top - 4}V${SIZE.height - SIZE.bottom}`);
      at.textContent = ` at epoch ${line.epoch}`;
      for (const part of parts) numbers[part].textContent = format(quantity, line[`${part}_${quantity}`]);
      plot.setAttribute("aria-valuenow", line.epoch);
      plot.setAttribute("aria-valuetext",
        `epoch ${line.epoch}: ${parts.map((part) => `${part} ${format(quantity, line[`${part}_${quantity}`])}`).join(", ")}`);
    };
    const nearest = (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * SIZE.width;
      return epochs.reduce((best, epoch) => (Math.abs(across(epoch) - x) < Math.abs(across(best) - x) ? epoch : best));
    };
    const element = page.element("div", { class: "chart" },
      page.element("h3", {}, QUANTITIES[quantity].title, at, page.element("small", {}, scale.note ? ` · ${scale.note}` : "")), legend, plot);
    return { element, plot, show, nearest, epochs };
  };

  /* Hovering and the arrow keys preview an epoch; a click or Enter selects it for the whole page. */
  const listen = (charts, current, page) => {
    const look = (epoch) => charts.forEach((one) => one.show(epoch));
    for (const { plot, nearest, epochs } of charts) {
      let looked = null;
      const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity };
      plot.addEventListener("pointermove", (event) => look(looked = nearest(event)));
      plot.addEventListener("pointerleave", () => { looked = null; look(current()); });
      plot.addEventListener("blur", () => { looked = null; look(current()); });
      plot.addEventListener("click", (event) => page.choose(nearest(event)));
      plot.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && looked !== null) page.choose(looked);
        if (!(event.key in moves)) return;
        event.preventDefault();
        const position = epochs.indexOf(looked ?? current()) + moves[event.key];
        look(looked = epochs[Math.min(Math.max(position, 0), epochs.length - 1)]);
      });
    }
  };

  const table = (data, page) => {
    const columns = Object.keys(QUANTITIES).flatMap((quantity) => PARTS.map((part) => [`${part}_${quantity}`, quantity]));
    const head = columns.map(([name]) => page.element("th", { scope: "col" }, name.replace("_", " ")));
    const rows = data.lines.map((line) => page.element("tr", {},
      page.element("th", { scope: "row" }, `${line.epoch}${line.epoch === data.best ? " (best)" : ""}`),
      ...columns.map(([name, quantity]) => page.element("td", {}, format(quantity, line[name])))));
    return page.element("table", { class: "curves-table" },
      page.element("thead", {}, page.element("tr", {}, page.element("th", { scope: "col" }, "epoch"), ...head)),
      page.element("tbody", {}, ...rows));
  };

  pellucid.kinds.curves = (root, data, page) => {
    const charts = Object.keys(QUANTITIES).map((quantity) => chart(quantity, data, page)).filter(Boolean);
    let current = data.lines[data.lines.length - 1].epoch;
    root.querySelector(".charts").append(...charts.map((one) => one.element));
    root.querySelector("details .wide").append(table(data, page));
    listen(charts, () => current, page);
    /* An interrupted run may have figures of an epoch without metrics. */
    const finished = (epoch) => (data.lines.filter((line) => line.epoch <= epoch).pop() ?? data.lines[0]).epoch;
    const show = (epoch) => {
      current = finished(epoch);
      for (const one of charts) one.show(current);
    };
    show(current);
    return show;
  };
})();
