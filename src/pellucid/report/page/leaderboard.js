/* Leaderboard of methods by metrics, with the recommended method, and charts of the selectivity curves.
   data: {images, recommended: a method or null, reason, columns: [{name, asks, definition, weakness, source, is_higher_better}],
   rows: [{method, is_control, note, cells: [{value, text, interval, bar, verdict, said} or null],
   curve: {share, most, least} or null}], groups: [{shown, methods, reason}], curve_meaning}. */
(() => {
  const WIDTH = 440; // of a chart, in units of its SVG
  const HEIGHT = 300;
  const EDGE = { left: 44, right: 12, top: 10, bottom: 40 };
  const NEAR = 30; // units of the SVG within which the pointer selects a curve
  const DASHES = ["", "8 4", "2 4", "9 4 2 4"];
  const PARTS = { most: "Most relevant first: should drop quickly", least: "Least relevant first: should stay high" };

  const nameOf = (method) => method.split("(")[0];

  /* --- conclusions ------------------------------------------------------------------------------------------------ */

  const conclude = (root, data, page) => {
    const box = root.querySelector(".recommended");
    const start = data.recommended ? `Recommended: ${nameOf(data.recommended)}` : "No method is recommended.";
    const bold = data.reason.startsWith(start) ? start : "";
    const reason = page.element("p", { class: "reason" }, page.element("strong", {}, bold), data.reason.slice(bold.length));
    if (data.recommended && "explain" in page.sections) {
      const href = page.href({ section: "explain", method: nameOf(data.recommended) });
      reason.append(" ", page.element("a", { href }, "Show its maps"));
    }
    box.append(reason, ...data.groups.map((group) => page.element("p", { class: "fold" }, group.reason)));
  };

  /* --- definitions of the metrics --------------------------------------------------------------------------------- */

  /* Return a function that creates the button that shows the definition of a column's metric above the table. */
  const definitions = (root, page) => {
    const panel = root.querySelector(".definition");
    let open = null;
    const close = () => {
      if (!open) return;
      open.setAttribute("aria-expanded", "false");
      panel.hidden = true;
      open = null;
    };
    const show = (button, column) => {
      close();
      const closer = page.element("button", { type: "button" }, "Close");
      closer.addEventListener("click", () => { close(); button.focus(); });
      const direction = column.is_higher_better ? "Higher is better." : "Lower is better.";
      const parts = [`${column.asks.charAt(0).toUpperCase()}${column.asks.slice(1)} ${direction}`, column.definition,
        column.weakness && `Weakness: ${column.weakness}`, column.source && `Source: ${column.source}`];
      panel.replaceChildren(page.element("div", {}, page.element("h3", {}, column.name), closer),
        ...parts.filter(Boolean).map((text) => page.element("p", {}, text)));
      panel.hidden = false;
      button.setAttribute("aria-expanded", "true");
      open = button;
      panel.scrollIntoView({ block: "nearest" });
    };
    root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !open) return;
      const button = open;
      close();
      button.focus();
    });
    return (column) => {
      const button = page.element("button", { type: "button", class: "ask", "aria-expanded": "false",
        "aria-controls": panel.id, "aria-label": `Definition of ${column.name}` }, "?");
      button.addEventListener("click", () => (open === button ? close() : show(button, column)));
      return button;
    };
  };

  /* --- the table -------------------------------------------------------------------------------------------------- */

  const cell = (content, page) => {
    if (!content) return page.element("td", {}, "–");
    const lines = [page.element("b", {}, content.text), page.element("small", {}, content.interval)];
    if (content.said) lines.push(page.element("small", { class: "said" }, content.said));
    return page.element("td", { class: content.verdict },
      page.element("div", { class: "bar", style: `--share: ${content.bar}` }, ...lines));
  };

  const row = (one, data, page) => {
    const [name, options] = one.method.split("(");
    const heading = page.element("th", { scope: "row" }, ...name.split(/(?<=_)/).flatMap((part) => [part, page.element("wbr")]));
    if (one.method === data.recommended) heading.append(page.element("small", { class: "mark" }, "recommended"));
    if (options) heading.append(page.element("small", {}, options.replace(/\)$/, "").replaceAll("=", " ")));
    if (one.note) heading.append(page.element("small", {}, one.note));
    const made = page.element("tr", {}, heading, ...one.cells.map((content) => cell(content, page)));
    if (one.method === data.recommended) made.classList.add("chosen");
    return made;
  };

  /* Hide the rows of methods that agree with another one behind a button in its heading. */
  const fold = (group, lines, page) => {
    const others = group.methods.filter((method) => method !== group.shown);
    const members = others.map((method) => lines.get(method));
    const button = page.element("button", { type: "button", class: "fold", "aria-expanded": "false" });
    const set = (isOpen) => {
      button.setAttribute("aria-expanded", String(isOpen));
      button.textContent = isOpen ? "Hide equal methods" : `= ${others.map(nameOf).join(", ")}`;
      for (const line of members) line.hidden = !isOpen;
    };
    for (const line of members) line.classList.add("member");
    button.addEventListener("click", () => set(button.getAttribute("aria-expanded") === "false"));
    set(false);
    lines.get(group.shown).querySelector("th").append(button);
  };

  const table = (root, data, lines, page) => {
    const followers = new Map(data.groups.map(({ shown, methods }) => [shown, methods.filter((one) => one !== shown)]));
    const isFollower = new Set([...followers.values()].flat());
    const groups = [false, true].map((isControl) =>
      data.rows.filter((one) => one.is_control === isControl && !isFollower.has(one.method))).filter((rows) => rows.length);
    const trail = (one) => [one.method, ...(followers.get(one.method) ?? [])].map((method) => lines.get(method));
    const bodies = groups.map((rows) => page.element("tbody", {}, ...rows.flatMap(trail)));
    const status = root.querySelector(".summary");
    const ask = definitions(root, page);

    /* Sort by a column, best first, with trivial, then missing values last; a second click restores the original order. */
    const sort = (column, heading) => {
      const again = heading.getAttribute("aria-sort") !== "none";
      const { name, is_higher_better: higher } = data.columns[column];
      for (const other of heading.parentElement.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
      const isTrivial = (one) => one.cells[column]?.verdict === "trivial"; // a map that is the same for every image wins nothing
      const rank = (one) => (one.cells[column] ? one.cells[column].value * (higher ? -1 : 1) : Infinity);
      groups.forEach((rows, index) => {
        // two missing values compare as equal, since Infinity − Infinity is NaN
        const ordered = again ? rows : [...rows].sort((a, b) => isTrivial(a) - isTrivial(b) || (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
        bodies[index].append(...ordered.flatMap(trail));
      });
      if (!again) heading.setAttribute("aria-sort", higher ? "descending" : "ascending");
      const last = groups.flat().some(isTrivial) ? " Values that the image has no part in come last." : "";
      status.textContent = again ? "Original order." : `Sorted by ${name}, best first.${last}`;
    };
    const headings = data.columns.map((column, index) => {
      const { name, is_higher_better: higher } = column;
      const button = page.element("button", { type: "button", class: "sort" }, `${name}\u00a0${higher ? "↑" : "↓"}`);
      const heading = page.element("th", { scope: "col", "aria-sort": "none" }, button,
        page.element("div", { class: "under" }, page.element("small", {}, higher ? "higher is better" : "lower is better"), ask(column)));
      button.addEventListener("click", () => sort(index, heading));
      return heading;
    });
    const head = page.element("tr", {}, page.element("th", { scope: "col" }, "method"), ...headings);
    root.querySelector("table").append(page.element("thead", {}, head), ...bodies);
  };

  /* --- the charts ------------------------------------------------------------------------------------------------- */

  /* Return about six round numbers between two limits. */
  const ticks = (low, high) => {
    const rough = (high - low || 1) / 6;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
    const made = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) made.push(Math.abs(at) < step / 1e6 ? 0 : at);
    return { values: made, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) + (step / power === 2.5 ? 1 : 0) };
  };

  const number = (value, digits) => value.toFixed(digits).replace("-", "−");

  /* Draw the frame of a chart; returns its SVG and the functions from data to its units. */
  const frame = ([low, high], label, page) => {
    const across = (share) => EDGE.left + share * (WIDTH - EDGE.left - EDGE.right);
    const down = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low || 1)) * (HEIGHT - EDGE.top - EDGE.bottom);
    const svg = page.drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
    const { values, digits } = ticks(low, high);
    for (const value of values) {
      svg.append(page.drawn("path", { class: value === 0 ? "zero" : "axis", d: `M${across(0)} ${down(value)}H${across(1)}` }),
        page.drawn("text", { x: EDGE.left - 7, y: down(value) + 4, "text-anchor": "end" }, number(value, digits)));
    }
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(page.drawn("text", { x: across(share), y: HEIGHT - EDGE.bottom + 17, "text-anchor": share === 1 ? "end" : "middle" }, `${share * 100}%`));
    }
    svg.append(page.drawn("text", { x: across(0.5), y: HEIGHT - 4, "text-anchor": "middle" }, "patches removed"));
    return { svg, across, down };
  };

  /* Return the height of a curve at a share of removed patches, between its points. */
  const heightAt = (shares, values, share) => {
    const next = Math.max(1, shares.findIndex((one) => one >= share));
    const [left, right] = [shares[next - 1], shares[next]];
    const part = Math.min(1, Math.max(0, (share - left) / (right - left || 1)));
    return values[next - 1] + part * (values[next] - values[next - 1]);
  };

  const charts = (root, data, lines, page) => {
    const hidden = new Set(data.groups.flatMap(({ shown, methods }) => methods.filter((one) => one !== shown)));
    const drawn = data.rows.filter((one) => one.curve && one.curve.share.length > 1 && !hidden.has(one.method))
      .map((one) => ({ ...one, area: one.curve.most.reduce((sum, value) => sum + value, 0) }))
      .sort((a, b) => a.area - b.area); // the steepest first
    if (!drawn.length) return;
    const box = root.querySelector(".removal");
    box.hidden = false;
    const values = drawn.flatMap(({ curve }) => [...curve.most, ...curve.least]);
    const range = [Math.min(0, ...values), Math.max(0, ...values)];
    const own = drawn.filter((one) => !one.is_control);
    const looks = new Map(drawn.map((one) => {
      if (one.is_control) return [one.method, { class: "line control", "stroke-dasharray": DASHES[drawn.filter((other) => other.is_control).indexOf(one) % DASHES.length] }];
      // from violet to red, so that methods of similar rank have similar colors
      const hue = 270 - (270 * own.indexOf(one)) / Math.max(own.length - 1, 1);
      return [one.method, { class: "line", style: `--hue: ${hue.toFixed(0)}` }];
    }));
    const readout = root.querySelector(".readout");
    const paths = new Map(drawn.map((one) => [one.method, []]));
    const buttons = new Map();
    let pinned = null;

    const pick = (method) => {
      const shown = method ?? pinned;
      box.classList.toggle("picking", shown !== null);
      for (const [name, made] of paths) for (const path of made) path.classList.toggle("on", name === shown);
      for (const [name, line] of lines) line.classList.toggle("on", name === shown);
      const one = drawn.find((other) => other.method === shown);
      const half = one && ["most", "least"].map((part) => number(heightAt(one.curve.share, one.curve[part], 0.5), 2));
      readout.textContent = one
        ? `${one.method}, half of the patches removed: ${half[0]} (most relevant first), ${half[1]} (least relevant first).` : "";
    };
    const pin = (method) => {
      pinned = pinned === method ? null : method;
      for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === pinned));
      pick(null);
    };

    const panels = Object.entries(PARTS).map(([part, title]) => {
      const label = `Selectivity, ${part} relevant patches removed first: mean ${data.curve_meaning} of ${drawn.length} methods. The list below names them.`;
      const { svg, across, down } = frame(range, label, page);
      for (const one of [...drawn].reverse()) { // the best on top
        const points = one.curve[part].map((value, index) => `${across(one.curve.share[index]).toFixed(1)} ${down(value).toFixed(1)}`);
        const path = page.drawn("path", { ...looks.get(one.method), d: `M${points.join("L")}` });
        paths.get(one.method).push(path);
        svg.append(path);
      }
      const nearest = (event) => {
        const frameBox = svg.getBoundingClientRect();
        const scale = WIDTH / frameBox.width;
        const share = ((event.clientX - frameBox.left) * scale - across(0)) / (across(1) - across(0));
        const y = (event.clientY - frameBox.top) * scale;
        if (share < 0 || share > 1) return null;
        const far = (one) => Math.abs(down(heightAt(one.curve.share, one.curve[part], share)) - y);
        const best = drawn.reduce((first, one) => (far(one) < far(first) ? one : first));
        return far(best) < NEAR ? best.method : null;
      };
      svg.addEventListener("pointermove", (event) => pick(nearest(event)));
      svg.addEventListener("pointerleave", () => pick(null));
      svg.addEventListener("click", (event) => { const method = nearest(event); if (method !== null) pin(method); });
      return page.element("figure", {}, page.element("figcaption", {}, title), svg);
    });
    root.querySelector(".panels").append(...panels);

    root.querySelector(".legend").append(...drawn.map(({ method }) => {
      const sample = page.drawn("svg", { viewBox: "0 0 32 12", "aria-hidden": "true" }, page.drawn("path", { ...looks.get(method), d: "M0 6H32" }));
      const button = page.element("button", { type: "button", "aria-pressed": "false" }, sample, nameOf(method));
      for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => pick(method));
      for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => pick(null));
      button.addEventListener("click", () => pin(method));
      buttons.set(method, button);
      return page.element("li", {}, button);
    }));
    for (const { method } of drawn) {
      lines.get(method).addEventListener("pointerenter", () => pick(method));
      lines.get(method).addEventListener("pointerleave", () => pick(null));
    }
    root.querySelector(".curve-meaning").textContent =
      `Selectivity: mean ${data.curve_meaning} as more patches are removed. Point at a curve or a method to highlight it; select it to keep it highlighted.`;
  };

  pellucid.kinds.leaderboard = (root, data, page) => {
    const lines = new Map(data.rows.map((one) => [one.method, row(one, data, page)]));
    conclude(root, data, page);
    for (const group of data.groups) fold(group, lines, page);
    table(root, data, lines, page);
    charts(root, data, lines, page);
    return null;
  };
})();
