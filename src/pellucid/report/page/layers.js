/* Statistics of layers by epoch. data: {epochs: {epoch: {rows: [{title, path, active, units, dead, saturated, rank_bound, effective_rank,
   mean, std, zeros, nonfinite, gradient_norm, gradient_ratio, before, first}], findings: [{text, severe}], names, cka, cka_images}},
   attention: {epoch: {names, shares, indices, refused, size, channels, most, rollout, images}}}. */
(() => {
  const STRONGEST = 55; // percent of the color, so that text on it stays readable
  const MOST_ROWS = 40; // of a longer table, the rest is shown on request
  const [WIDTH, HEIGHT] = [88, 20]; // of a small chart, in units of its SVG

  const rank = (row) => (row.rank_bound ? row.effective_rank / row.rank_bound : null);
  const minus = (text) => text.replace("-", "−");
  const share = (value) => (value === null ? "–" : minus(value.toFixed(2)));

  /* Columns: the value that the small chart shows from 0 to 1 (gradients: on a shared logarithmic scale), and the text. */
  const COLUMNS = [
    { name: "dead", note: "units", text: (row) => `${row.dead.toLocaleString("en")} of ${row.units.toLocaleString("en")}`, value: (row) => row.dead / (row.units || 1), isLost: (row) => row.dead > 0, isActive: true },
    { name: "saturated", note: "units", text: (row) => (row.saturated === null ? "–" : `${row.saturated.toLocaleString("en")} of ${row.units.toLocaleString("en")}`), value: (row) => (row.saturated === null ? null : row.saturated / (row.units || 1)), isLost: (row) => row.saturated > 0, isActive: true },
    { name: "effective rank", note: "of its bound", text: (row) => (row.effective_rank === null ? "–" : `${row.effective_rank.toFixed(1)} of ${row.rank_bound}`), value: rank },
    { name: "gradient", note: "norm at output", text: (row, page) => (row.gradient_norm === null ? "–" : page.digits(row.gradient_norm, 2)), value: (row) => row.gradient_norm, isLog: true },
    { name: "gradient", note: "÷ norm of weights", text: (row, page) => (row.gradient_ratio === null ? "–" : page.digits(row.gradient_ratio, 2)), value: (row) => row.gradient_ratio, isLog: true },
    { name: "CKA", note: "epoch before", text: (row) => share(row.before), value: (row) => row.before },
    { name: "CKA", note: "first epoch", text: (row) => share(row.first), value: (row) => row.first },
    { name: "outputs", note: "mean ± std", text: (row, page) => (row.mean === null ? "not finite" : `${page.digits(row.mean, 2)} ± ${page.digits(row.std, 2)}`) },
    { name: "zeros", note: "of outputs", text: (row, page) => page.percent(row.zeros), value: (row) => row.zeros, isActive: true },
  ];

  /* Return a function from a value to 0…1, or null; logarithmic over all layers and epochs for gradients. */
  const scale = (column, data) => {
    if (!column.isLog) return (value) => (value === null ? null : Math.min(Math.max(value, 0), 1));
    const values = Object.values(data.epochs).flatMap(({ rows }) => rows.map(column.value)).filter((value) => value > 0).map(Math.log10);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (value) => (value > 0 ? (high > low ? (Math.log10(value) - low) / (high - low) : 0.5) : null);
  };

  const chart = (points, chosen, last, page) => {
    const [x, y] = [(epoch) => 3 + (last ? (epoch / last) * (WIDTH - 6) : 0), (part) => HEIGHT - 3 - part * (HEIGHT - 6)];
    const known = points.filter(([, part]) => part !== null);
    const drawing = page.drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" },
      page.drawn("path", { d: known.length > 1 ? `M${known.map(([epoch, part]) => `${x(epoch)} ${y(part)}`).join("L")}` : "" }));
    const at = known.find(([epoch]) => epoch === chosen);
    if (at) drawing.append(page.drawn("circle", { cx: x(at[0]), cy: y(at[1]), r: 2.6 }));
    return drawing;
  };

  const bar = (part, isBad, page) => {
    const inner = page.element("span");
    inner.style.width = `${100 * part}%`;
    return page.element("span", { class: isBad ? "bar bad" : "bar" }, inner);
  };

  pellucid.kinds.layers = (root, data, page) => {
    const [table, status, matrix] = [".layer-rows", ".summary", ".similar .cka"].map((name) => root.querySelector(name));
    const epochs = Object.keys(data.epochs).map(Number).sort((a, b) => a - b);
    const latest = data.epochs[epochs[epochs.length - 1]].rows;
    const columns = COLUMNS.filter((column) => !column.value || epochs.some((epoch) => data.epochs[epoch].rows.some((row) => column.value(row) !== null)))
      .map((column) => ({ ...column, place: scale(column, data) }));
    // by title, since a row is the same layer in every epoch
    const history = new Map(latest.map((row) => [row.title, epochs.map((epoch) => [epoch, data.epochs[epoch].rows.find(({ title }) => title === row.title) ?? null])]));
    let isWhole = latest.length <= MOST_ROWS;

    const cell = (row, column, epoch) => {
      if (column.isActive && !row.active) return page.element("td");
      const made = page.element("td", column.isLost?.(row) ? { class: "lost" } : {}, column.text(row, page));
      if (!column.value || column.value(row) === null) return made;
      if (epochs.length === 1) {
        if (!column.isLog) made.append(bar(column.place(column.value(row)), Boolean(column.isLost), page));
        return made;
      }
      const points = (history.get(row.title) ?? []).map(([at, own]) => [at, own === null ? null : column.place(column.value(own))]);
      made.append(chart(points, epoch, epochs[epochs.length - 1], page));
      return made;
    };

    const showTable = (record, epoch) => {
      const heads = columns.map((column) => page.element("th", { scope: "col" }, column.name, page.element("small", {}, column.note)));
      const rows = record.rows.slice(0, isWhole ? undefined : MOST_ROWS).map((row) => {
        // a long path can break after its dots
        const parts = row.title.split(/(?<=[.:_])/).flatMap((part) => [part, page.element("wbr")]);
        const name = page.element("th", { scope: "row" }, ...parts);
        if (row.nonfinite) name.append(page.element("small", { class: "lost" }, `${row.nonfinite.toLocaleString("en")} outputs NaN or infinite`));
        return page.element("tr", row.active ? {} : { class: "weights" }, name, ...columns.map((column) => cell(row, column, epoch)));
      });
      table.replaceChildren(page.element("thead", {}, page.element("tr", {}, page.element("th", { scope: "col" }, "Layer"), ...heads)), page.element("tbody", {}, ...rows));
    };

    const grid = (target, names, heads, values, text, strength) => {
      const cells = values.map((line) => line.map((value) => {
        const made = page.element("td", {}, text(value));
        if (value !== null) made.style.setProperty("--share", `${(STRONGEST * Math.min(strength(value), 1)).toFixed(0)}%`);
        if (value < 0) made.style.setProperty("--tone", "var(--against)");
        return made;
      }));
      target.replaceChildren(
        page.element("thead", {}, page.element("tr", {}, page.element("td", {}, ""), ...heads.map((name, number) => page.element("th", { scope: "col", title: names[number] ?? name }, name)))),
        page.element("tbody", {}, ...cells.map((line, number) => page.element("tr", {}, page.element("th", { scope: "row", title: names[number] }, names[number]), ...line))));
      return cells;
    };

    const showSimilarity = ({ names, cka, cka_images: images }) => {
      root.querySelector(".similar").hidden = !names;
      if (!names) return;
      const numbered = names.map((name, number) => `${number + 1}. ${name}`);
      const cells = grid(matrix, numbered, names.map((_, number) => String(number + 1)), cka, share, (value) => Math.max(value, 0));
      const tell = (at) => {
        status.textContent = at ? `${names[at[0]]} and ${names[at[1]]}: CKA ${cka[at[0]][at[1]] === null ? "undefined" : minus(cka[at[0]][at[1]].toFixed(3))}.`
          : `Over ${page.many(images, "test image")}; 1: equal up to rotation and scale. Point at a cell for the names of its layers.`;
      };
      page.walkGrid(matrix, cells, tell);
      tell(null);
    };

    let latestHeads = null;
    const showHeads = async (epoch) => {
      const shown = page.latest(data.attention, epoch);
      latestHeads = shown;
      const { names, shares, indices, refused, size, channels, most, rollout, images } = data.attention[shown];
      const [heads, figure] = [root.querySelector(".heads"), root.querySelector(".heads figure")];
      heads.hidden = false;
      const limit = Math.max(...shares.flat().map((value) => Math.abs(value ?? 0)), 1e-9);
      heads.querySelector(".aside").textContent = [names.length ? "Share of the predicted class's logit that each head carries (LRP-ε, mean of the images)." : "",
        ...Object.entries(refused).map(([name, reason]) => `Left out: ${name}, because ${reason}`)].filter(Boolean).join(" ");
      const across = Array.from({ length: shares[0]?.length ?? 0 }, (_, number) => `head ${number}`);
      const cells = grid(heads.querySelector("table"), names, across, shares, (value) => (value === null ? "–" : `${minus((100 * value).toFixed(0))}%`), (value) => Math.abs(value) / limit);
      for (const one of cells.flat()) if (!one.style.getPropertyValue("--tone")) one.style.setProperty("--tone", "var(--for)");
      figure.hidden = !indices.length;
      if (!indices.length) return;
      const [maps, pixels] = await Promise.all([rollout, images].map(page.unpack));
      if (latestHeads !== shown) return; // another epoch was selected meanwhile
      const length = size[0] * size[1];
      figure.querySelector(".tiles").replaceChildren(...indices.map((index, number) => {
        const [image, map] = [["image", pixels, channels], ["attention rollout", maps, 1]].map(([what, bytes, depth]) => {
          const canvas = page.element("canvas", { role: "img", "aria-label": `Test image ${index}: ${what}` });
          page.paintImage(canvas, size, depth, bytes.subarray(number * length * depth, (number + 1) * length * depth));
          return canvas;
        });
        return page.element("div", { class: "attended" }, page.opener(index, {}, image), map, `test image ${index}`);
      }));
      figure.querySelector("figcaption").textContent = `Attention rollout: black 0, white a share of ${page.digits(most, 2)} per token, for all images of an epoch.`;
    };

    const show = (epoch) => {
      const shown = page.latest(data.epochs, epoch);
      const record = data.epochs[shown];
      root.querySelector(".which").textContent = page.stale(shown, epoch);
      const calm = { text: "No dead or saturated units; gradients neither vanish nor explode.", severe: false };
      const findings = record.findings.length || !record.rows.some(({ active }) => active) ? record.findings : [calm];
      root.querySelector(".findings").replaceChildren(...findings.map(({ text, severe }) => page.element("li", severe ? { class: "severe" } : {}, text)));
      showTable(record, Number(shown));
      showSimilarity(record);
      return Object.keys(data.attention).length ? showHeads(epoch) : null;
    };
    if (!isWhole) {
      const more = page.element("button", { type: "button" }, `Show all ${latest.length} layers`);
      more.addEventListener("click", () => {
        isWhole = true;
        more.remove();
        show(page.epoch);
      });
      table.parentElement.after(more);
    }
    return show;
  };
})();
