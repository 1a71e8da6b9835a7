/* Learning curves of several runs. data: {runs: [{name, setting, lines: [{epoch, train_loss, …}], marks: [{epoch}]}],
   settings: [names]}. */
(() => {
  const SIZE = { width: 560, height: 300, left: 62, right: 16, top: 18, bottom: 34 };
  const COLOURS = 10;
  const PARTS = ["test", "validation", "train"];
  const QUANTITIES = {
    loss: { title: "Loss (nats)", text: (value) => value.toPrecision(3) },
    accuracy: { title: "Accuracy", text: (value) => `${(100 * value).toFixed(2)}%` },
  };

  /* Return a function from a value to its height, 0 (bottom) to 1 (top), and the ticks. Loss and errors get a logarithmic
     scale if they span more than a factor of ten. */
  const scaleOf = (quantity, values) => {
    const shown = quantity === "accuracy" ? values.map((value) => 1 - value) : values;
    const [low, high] = [Math.min(...shown.filter((value) => value > 0)), Math.max(...shown)];
    const sign = quantity === "accuracy" ? -1 : 1;
    const label = (value) => (quantity === "accuracy" ? `${Number((100 * (1 - value)).toPrecision(4))}%` : String(Number(value.toPrecision(2))));
    if (high > 0 && high / low > 10) {
      const [from, to] = [Math.log10(low) - 0.1, Math.log10(high) + 0.1];
      const ticks = [1, 2, 5].flatMap((digit) => Array.from({ length: 24 }, (_, power) => digit * 10 ** (power - 16)))
        .filter((tick) => Math.log10(tick) >= from && Math.log10(tick) <= to).sort((a, b) => a - b);
      const few = ticks.length > 8 ? ticks.filter((tick) => String(tick.toPrecision(1)).startsWith("1") || /^0\.0*1$/.test(String(Number(tick.toPrecision(1))))) : ticks;
      const place = (value) => {
        const share = (Math.log10(Math.max(quantity === "accuracy" ? 1 - value : value, low / 2)) - from) / (to - from);
        return Math.min(Math.max(sign > 0 ? share : 1 - share, 0), 1);
      };
      return { place, ticks: few.map((tick) => [quantity === "accuracy" ? 1 - tick : tick, label(tick)]), note: quantity === "accuracy" ? "log scale of the error" : "logarithmic" };
    }
    const span = [Math.min(...values), Math.max(...values)];
    const room = (span[1] - span[0] || Math.abs(span[1]) || 1) * 0.08;
    const [from, to] = [Math.max(span[0] - room, 0), span[1] + room];
    const ticks = Array.from({ length: 5 }, (_, step) => from + ((to - from) * step) / 4);
    const text = (value) => (quantity === "accuracy" ? `${(100 * value).toFixed(1)}%` : value.toPrecision(3));
    return { place: (value) => (value - from) / (to - from), ticks: ticks.map((tick) => [tick, text(tick)]), note: "" };
  };

  /* Return the mean of several runs at each epoch that all of them have. */
  const meanOf = (runs, key) => {
    const epochs = runs[0].lines.map((line) => line.epoch);
    return epochs.map((epoch) => [epoch, runs.map((run) => run.lines.find((line) => line.epoch === epoch)?.[key] ?? null)])
      .filter(([, values]) => values.every((value) => value !== null))
      .map(([epoch, values]) => [epoch, values.reduce((sum, value) => sum + value, 0) / values.length]);
  };

  const chart = (quantity, part, data, page) => {
    const key = `${part}_${quantity}`;
    const values = data.runs.flatMap((run) => run.lines.map((line) => line[key])).filter((value) => value !== null);
    if (!values.length) return null;
    const epochs = [...new Set(data.runs.flatMap((run) => run.lines.map((line) => line.epoch)))].sort((a, b) => a - b);
    const [first, last] = [epochs[0], epochs[epochs.length - 1]];
    const scale = scaleOf(quantity, values);
    const across = (epoch) => SIZE.left + (SIZE.width - SIZE.left - SIZE.right) * (last > first ? (epoch - first) / (last - first) : 0.5);
    const up = (value) => SIZE.height - SIZE.bottom - (SIZE.height - SIZE.top - SIZE.bottom) * scale.place(value);
    // runs of a single setting get a color each
    const colour = (run) => `--of: var(--c${(data.settings.length > 1 ? run.setting : data.runs.indexOf(run)) % COLOURS})`;
    const plot = page.drawn("svg", { class: "plot", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, tabindex: 0, role: "slider",
      "aria-label": `${QUANTITIES[quantity].title} by epoch`, "aria-valuemin": first, "aria-valuemax": last });
    for (const [tick, text] of scale.ticks) {
      plot.append(page.drawn("path", { class: "axis", d: `M${SIZE.left} ${up(tick)}H${SIZE.width - SIZE.right}` }),
        page.drawn("text", { x: SIZE.left - 6, y: up(tick) + 4, "text-anchor": "end" }, text));
    }
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => epochs.length / step <= 11) ?? 1000;
    for (const epoch of epochs.filter((number) => number % every === 0)) {
      plot.append(page.drawn("text", { x: across(epoch), y: SIZE.height - 12, "text-anchor": "middle" }, String(epoch)));
    }
    plot.append(page.drawn("text", { class: "word", x: 0, y: SIZE.height - 12 }, "epoch"));
    const chosen = page.drawn("path", { class: "chosen" });
    plot.append(chosen);
    const draw = (points, run, kind) => plot.append(page.drawn("path", {
      class: `run ${kind}`, style: colour(run), d: `M${points.map(([epoch, value]) => `${across(epoch)} ${up(value)}`).join("L")}` }));
    data.settings.forEach((_, setting) => {
      const own = data.runs.filter((run) => run.setting === setting);
      for (const run of own) {
        const points = run.lines.filter((line) => line[key] !== null).map((line) => [line.epoch, line[key]]);
        if (points.length) draw(points, run, own.length > 1 && data.settings.length > 1 ? "seed" : "");
      }
      const mean = own.length > 1 && data.settings.length > 1 ? meanOf(own, key) : [];
      if (mean.length) draw(mean, own[0], "mean");
    });
    for (const run of data.runs) {
      for (const { epoch } of run.marks) {
        const value = run.lines.find((line) => line.epoch === epoch)?.[key] ?? null;
        if (value !== null) plot.append(page.drawn("circle", { class: "mark", style: colour(run), cx: across(epoch), cy: up(value), r: 4 }));
      }
    }
    const numbers = data.runs.map(() => page.element("b"));
    const legend = page.element("ul", { class: "legend" }, ...data.runs.map((run, number) => {
      const sample = page.element("i", { "aria-hidden": "true" });
      sample.setAttribute("style", colour(run));
      return page.element("li", {}, sample, run.name, numbers[number]);
    }));
    const at = page.element("span", { class: "at" });
    const show = (epoch) => {
      chosen.setAttribute("d", `M${across(epoch)} ${SIZE.top - 4}V${SIZE.height - SIZE.bottom}`);
      at.textContent = ` at epoch ${epoch}`;
      const texts = data.runs.map((run) => {
        const value = run.lines.find((line) => line.epoch === epoch)?.[key] ?? null;
        return value === null ? "–" : QUANTITIES[quantity].text(value);
      });
      texts.forEach((text, number) => { numbers[number].textContent = text; });
      plot.setAttribute("aria-valuenow", epoch);
      plot.setAttribute("aria-valuetext", `epoch ${epoch}: ${data.runs.map((run, number) => `${run.name} ${texts[number]}`).join(", ")}`);
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

  const listen = (charts) => {
    const look = (epoch) => charts.forEach((one) => one.show(epoch));
    for (const { plot, nearest, epochs } of charts) {
      let now = epochs[epochs.length - 1];
      const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity };
      for (const kind of ["pointermove", "pointerdown"]) plot.addEventListener(kind, (event) => look(now = nearest(event)));
      plot.addEventListener("keydown", (event) => {
        if (!(event.key in moves)) return;
        event.preventDefault();
        look(now = epochs[Math.min(Math.max(epochs.indexOf(now) + moves[event.key], 0), epochs.length - 1)]);
      });
      look(now);
    }
  };

  const table = (data, part, page) => {
    const epochs = [...new Set(data.runs.flatMap((run) => run.lines.map((line) => line.epoch)))].sort((a, b) => a - b);
    const columns = data.runs.flatMap((run) => Object.keys(QUANTITIES).map((quantity) => [run, quantity]));
    const cell = (epoch, [run, quantity]) => {
      const value = run.lines.find((line) => line.epoch === epoch)?.[`${part}_${quantity}`] ?? null;
      return page.element("td", {}, value === null ? "–" : QUANTITIES[quantity].text(value));
    };
    return page.element("table", { class: "compare-table" },
      page.element("thead", {}, page.element("tr", {}, page.element("th", { scope: "col" }, "epoch"),
        ...columns.map(([run, quantity]) => page.element("th", { scope: "col" }, `${run.name}, ${quantity}`)))),
      page.element("tbody", {}, ...epochs.map((epoch) => page.element("tr", {},
        page.element("th", { scope: "row" }, String(epoch)), ...columns.map((column) => cell(epoch, column))))));
  };

  pellucid.kinds.compare_curves = (root, data, page) => {
    const known = PARTS.filter((part) => data.runs.some((run) => run.lines.some((line) => line[`${part}_loss`] !== null || line[`${part}_accuracy`] !== null)));
    const field = root.querySelector(".part");
    field.append(...known.map((part) => page.element("option", { value: part }, part === "train" ? "training" : part)));
    const show = () => {
      const charts = Object.keys(QUANTITIES).map((quantity) => chart(quantity, field.value, data, page)).filter(Boolean);
      root.querySelector(".charts").replaceChildren(...charts.map((one) => one.element));
      root.querySelector("details .wide").replaceChildren(table(data, field.value, page));
      listen(charts);
    };
    field.addEventListener("change", show);
    show();
    return null;
  };
})();
