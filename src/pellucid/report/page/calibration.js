/* Calibration. data: {epochs: {epoch: {predicted, scaled, temperature, curve, classes, class_count}}}; `predicted` and
   `scaled` (or null) are {images, accuracy, confidence, ece, expected_ece, p, draws, loss, brier, edges, bins: {counts,
   confidence, accuracy, low, high}}, `curve` is {coverage, risk, best, aurc, excess_aurc}. */
(() => {
  const SIZE = { width: 460, height: 460, left: 62, right: 26, top: 10, side: 330, gap: 14, below: 62 };
  const NAMES = { predicted: "as predicted", scaled: "with temperature" };
  const LARGEST = 9; // radius of the mark of all images
  const share = (value, digits = 2) => (value === null ? "–" : `${(100 * value).toFixed(digits)}%`);
  const pValue = (one) => (one.p * (one.draws + 1) <= 1.5 ? `≤ ${one.p.toPrecision(1)}` : one.p.toPrecision(2));
  const across = (value) => SIZE.left + (SIZE.width - SIZE.left - SIZE.right) * value;

  /* Round numbers from 0 to at most `top`. */
  const niceTicks = (top) => {
    const power = 10 ** Math.floor(Math.log10(top));
    const step = power * ([0.2, 0.5, 1, 2].find((one) => top / (one * power) <= 6) ?? 5);
    return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, number) => number * step);
  };
  const grid = (page, plot, ticks, up, text) => {
    for (const tick of ticks) {
      plot.append(page.drawn("path", { class: "axis", d: `M${SIZE.left} ${up(tick)}H${SIZE.width - SIZE.right}` }),
        page.drawn("text", { x: SIZE.left - 6, y: up(tick) + 4, "text-anchor": "end" }, text(tick)));
    }
  };
  const xAxis = (page, plot, y, word) => {
    for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
      plot.append(page.drawn("text", { x: across(tick), y: y + 16, "text-anchor": "middle" }, share(tick, 0)));
    }
    plot.append(page.drawn("text", { x: across(0.5), y: y + 36, "text-anchor": "middle" }, word));
  };
  const legend = (page, list, entries) => list.replaceChildren(...entries.map(([kind, name, shape]) => page.element("li", {},
    page.drawn("svg", { viewBox: "0 0 28 12", "aria-hidden": "true", class: kind },
      shape === "circle" ? page.drawn("circle", { class: "mark", cx: 14, cy: 6, r: 5 })
        : shape === "rect" ? page.drawn("rect", { class: "mark", x: 9, y: 1, width: 10, height: 10 }) : page.drawn("path", { class: shape, d: "M0 6H28" })), name)));

  /* Let the pointer and the arrow keys choose one of `count` places of a plot; `say` shows it and returns a text. */
  const choosable = (plot, count, label, placeOf, say, rest) => {
    let at = -1;
    const attributes = { tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": count - 1, "aria-valuenow": 0, "aria-valuetext": "none selected" };
    for (const [name, value] of Object.entries(attributes)) plot.setAttribute(name, value);
    const go = (place) => {
      at = Math.min(Math.max(place, 0), count - 1);
      plot.setAttribute("aria-valuenow", at);
      plot.setAttribute("aria-valuetext", say(at));
    };
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -Infinity, End: Infinity };
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * SIZE.width;
      go(placeOf((x - SIZE.left) / (SIZE.width - SIZE.left - SIZE.right)));
    });
    for (const leaving of ["pointerleave", "blur"]) plot.addEventListener(leaving, rest);
    plot.addEventListener("keydown", (event) => {
      if (!(event.key in moves)) return;
      event.preventDefault();
      go(at < 0 && event.key in { ArrowRight: 0, ArrowUp: 0 } ? 0 : at + moves[event.key]);
    });
    rest();
  };

  const diagram = (figure, parts, page) => {
    const [list, holder, readout] = [".legend", ".diagram", ".readout"].map((name) => figure.querySelector(name));
    const plot = page.drawn("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}` });
    const up = (value) => SIZE.top + SIZE.side * (1 - value);
    const foot = SIZE.top + SIZE.side + SIZE.gap;
    grid(page, plot, [0, 0.2, 0.4, 0.6, 0.8, 1], up, (tick) => share(tick, 0));
    plot.append(page.drawn("path", { class: "ideal", d: `M${across(0)} ${up(0)}L${across(1)} ${up(1)}` }));
    const chosen = page.drawn("rect", { class: "chosen", y: SIZE.top, height: foot + SIZE.below - SIZE.top, width: 0 });
    plot.append(chosen);
    const most = Math.max(...Object.values(parts).flatMap((one) => one.bins.counts));
    const high = (images) => foot + SIZE.below * (1 - (images ? Math.log10(images) + 0.3 : 0) / (Math.log10(most) + 0.3));
    plot.append(page.drawn("path", { class: "axis", d: `M${SIZE.left} ${foot + SIZE.below}H${SIZE.width - SIZE.right}` }),
      page.drawn("text", { x: SIZE.left - 6, y: foot + 10, "text-anchor": "end" }, most.toLocaleString("en")),
      page.drawn("text", { x: SIZE.left - 6, y: foot + SIZE.below, "text-anchor": "end" }, "0"));
    xAxis(page, plot, foot + SIZE.below, "confidence, and number of images (log scale)");
    for (const [kind, one] of Object.entries(parts)) {
      const { counts, confidence, accuracy, low, high: top } = one.bins;
      const steps = counts.map((images, bin) => `${bin ? "L" : "M"}${across(one.edges[bin])} ${high(images)}H${across(one.edges[bin + 1])}`);
      const group = page.drawn("g", { class: kind }, page.drawn("path", { class: "steps", d: steps.join("") }));
      counts.forEach((images, bin) => {
        if (!images) return;
        const [x, y] = [across(confidence[bin]), up(accuracy[bin])];
        const radius = Math.max(LARGEST * Math.sqrt(images / one.images), 3);
        group.append(page.drawn("path", { class: "bar", d: `M${x} ${up(low[bin])}V${up(top[bin])}` }), kind === "predicted"
          ? page.drawn("circle", { class: "mark", cx: x, cy: y, r: radius })
          : page.drawn("rect", { class: "mark", x: x - radius, y: y - radius, width: 2 * radius, height: 2 * radius }));
      });
      plot.append(group);
    }
    legend(page, list, [...Object.keys(parts).map((kind) => [kind, NAMES[kind], kind === "predicted" ? "circle" : "rect"]), ["", "calibrated", "ideal"]]);
    const { edges } = parts.predicted;
    const say = (bin) => {
      chosen.setAttribute("x", across(edges[bin]));
      chosen.setAttribute("width", across(edges[bin + 1]) - across(edges[bin]));
      const texts = Object.entries(parts).map(([kind, { bins }]) => `${NAMES[kind]}: ${page.many(bins.counts[bin], "image")}` +
        (bins.counts[bin] ? `, mean confidence ${share(bins.confidence[bin], 1)}, accuracy ${share(bins.accuracy[bin], 1)} (${share(bins.low[bin], 1)} to ${share(bins.high[bin], 1)})` : ""));
      readout.textContent = `Confidence ${share(edges[bin], 0)} to ${share(edges[bin + 1], 0)}, ${texts.join("; ")}.`;
      return readout.textContent;
    };
    const rest = () => {
      chosen.setAttribute("width", 0);
      readout.textContent = "Point at a bin, or use the arrow keys, for its numbers.";
    };
    choosable(plot, edges.length - 1, "Bins of the reliability diagram", (x) => edges.slice(1, -1).filter((edge) => edge < x).length, say, rest);
    holder.replaceChildren(plot);
  };

  const riskCoverage = (figure, curve, images, page) => {
    const [list, holder, readout] = [".legend", ".curve", ".readout"].map((name) => figure.querySelector(name));
    const plot = page.drawn("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}` });
    const { coverage, risk, best } = curve;
    const full = SIZE.height - SIZE.top - 48;
    const errorRate = risk[risk.length - 1];
    // single errors among the first images do not stretch the axis
    const top = Math.min(Math.max(1.25 * errorRate, [...risk].sort((a, b) => a - b)[Math.floor(0.95 * (risk.length - 1))], 1e-4), 1);
    const up = (value) => SIZE.top + full * (1 - Math.min(value / top, 1));
    grid(page, plot, niceTicks(top), up, (tick) => `${Number((100 * tick).toPrecision(3))}%`);
    xAxis(page, plot, SIZE.top + full, "coverage (most confident images first)");
    const line = (values) => `M${values.map((value, number) => `${across(coverage[number]).toFixed(1)} ${up(value).toFixed(1)}`).join("L")}`;
    const chosen = page.drawn("line", { class: "chosen", y1: SIZE.top, y2: SIZE.top + full, visibility: "hidden" });
    plot.append(page.drawn("path", { class: "ideal", d: `M${across(0)} ${up(errorRate)}H${across(1)}` }),
      page.drawn("path", { class: "best", d: line(best) }), chosen,
      page.drawn("g", { class: "predicted" }, page.drawn("path", { class: "risk", d: line(risk) })));
    legend(page, list, [["predicted", "error rate by confidence", "risk"], ["", "random order", "ideal"], ["", "best possible order", "best"]]);
    const say = (number) => {
      const kept = Math.round(coverage[number] * images);
      for (const end of ["x1", "x2"]) chosen.setAttribute(end, across(coverage[number]));
      chosen.setAttribute("visibility", "visible");
      readout.textContent = `The ${share(coverage[number], 1)} most confident images: ${page.many(Math.round(risk[number] * kept), "error")} in ${kept.toLocaleString("en")}, ${share(risk[number])}.`;
      return readout.textContent;
    };
    const rest = () => {
      chosen.setAttribute("visibility", "hidden");
      readout.textContent = `Area under the curve (AURC): ${page.digits(curve.aurc)}, ${page.digits(curve.excess_aurc)} above the best possible order.`;
    };
    const nearest = (x) => Math.max(coverage.filter((value) => value <= x).length - 1, 0);
    choosable(plot, coverage.length, "Coverage", nearest, say, rest);
    holder.replaceChildren(plot);
  };

  const table = (element, head, rows, page) => element.replaceChildren(
    page.element("thead", {}, page.element("tr", {}, ...head.map((name, column) => (name || column ? page.element("th", { scope: "col" }, name) : page.element("td"))))),
    page.element("tbody", {}, ...rows.map(([name, ...cells]) => page.element("tr", {},
      page.element("th", { scope: "row", title: name }, name), ...cells.map((text) => page.element("td", {}, text))))));

  const scores = (element, parts, page) => table(element,
    ["", "confidence", "accuracy", "ECE", "if calibrated", "p", "Brier score", "reliability", "resolution", "cross-entropy"],
    Object.entries(parts).map(([kind, one]) => [NAMES[kind], share(one.confidence), share(one.accuracy), share(one.ece), share(one.expected_ece), pValue(one),
      page.digits(one.brier.score), page.digits(one.brier.reliability), page.digits(one.brier.resolution), one.loss === null ? "–" : page.digits(one.loss)]), page);

  const classes = (element, one, page) => table(element,
    ["class", "images", "expected", "ECE", "if calibrated", "p (adjusted)", "Brier score"],
    one.classes.names.map((name, row) => [name, one.classes.counts[row].toLocaleString("en"), page.digits(one.classes.expected_counts[row], 4),
      share(one.classes.ece[row]), share(one.classes.expected_ece[row]), pValue({ p: one.classes.p[row], draws: one.predicted.draws }), page.digits(one.classes.brier[row])]), page);

  const describe = ({ values, low, high, images, source, note }) => {
    if (note || !values.length) return note ? `No temperature: ${note}.` : "";
    const texts = values.map((value, number) => `${value.toPrecision(3)} (95% interval ${low[number]?.toPrecision(3) ?? "–"} to ${high[number]?.toPrecision(3) ?? "∞"})`);
    return source === "validation" ? `Temperature ${texts[0]}, fitted to ${images[0].toLocaleString("en")} validation images.`
      : `Temperatures ${texts.join(" and ")}, each fitted to one half of the test images and applied to the other, because there are too few validation images.`;
  };

  pellucid.kinds.calibration = (root, data, page) => {
    const [first, second] = root.querySelectorAll(".pair figure");
    return (epoch) => {
      const shown = page.latest(data.epochs, epoch);
      const one = data.epochs[shown];
      const parts = { predicted: one.predicted, ...(one.scaled ? { scaled: one.scaled } : {}) };
      root.querySelector(".which").textContent = page.stale(shown, epoch);
      root.querySelector(".temperature").textContent = describe(one.temperature);
      scores(root.querySelector(".scores"), parts, page);
      diagram(first, parts, page);
      riskCoverage(second, one.curve, one.predicted.images, page);
      classes(root.querySelector(".by-class"), one, page);
    };
  };
})();
