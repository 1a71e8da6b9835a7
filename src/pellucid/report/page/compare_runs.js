/* Runs and their settings. data: {names, folders, results: [[name, values]], differing, same: [[name, value]],
   pairs: [{second, images, seeds, is_same_setting}]}. Also the choice of a pair, which all sections share. */
(() => {
  const listeners = [];
  let chosen = 0;

  /* Let the reader choose a pair, if there are several: `show` is called with its position now and after each choice.
     `names` are those of all models, `pairs` have their position `second`; the first model is in every pair. */
  pellucid.choosePair = (root, names, pairs, show) => {
    const body = root.querySelector(".body");
    const positions = new Map(pairs.map(({ second }, position) => [second, position]));
    const field = pellucid.element("select", { "aria-label": `Compare ${names[0]} with` });
    field.append(...pairs.map(({ second }) => pellucid.element("option", { value: second }, names[second])));
    const update = () => {
      if (!positions.has(chosen)) return;
      field.value = chosen;
      show(positions.get(chosen));
    };
    if (!positions.has(chosen)) {
      chosen ||= pairs[0].second; // the first pair of the first section
      show(positions.get(chosen) ?? 0);
      field.value = positions.has(chosen) ? chosen : pairs[0].second;
    } else update();
    field.addEventListener("change", () => {
      chosen = Number(field.value);
      for (const one of listeners) one();
    });
    listeners.push(update);
    if (pairs.length > 1) {
      body.prepend(pellucid.element("div", { class: "chooser" }, pellucid.element("span", {}, `Compare ${names[0]} with`), field));
    }
  };

  const minus = (text) => text.replace("-", "−");

  /* Format a difference of shares in percentage points with its sign. */
  pellucid.points = (share) => {
    const text = (100 * share).toFixed(2);
    if (Number(text) === 0) return "0.00";
    return minus(share > 0 ? `+${text}` : text);
  };

  const pValue = (p) => (p === null ? "–" : p < 0.001 ? "< 0.001" : String(Number(p.toPrecision(2))));

  const interval = ({ difference, low, high }) =>
    (low === null ? pellucid.points(difference)
      : `${pellucid.points(difference)} [${pellucid.points(low)}, ${pellucid.points(high)}]`);

  const table = (page, heads, rows) => page.element("table", { class: "compare-table" },
    page.element("thead", {}, page.element("tr", {}, ...heads.map((text) => page.element("th", { scope: "col" }, text)))),
    page.element("tbody", {}, ...rows));

  const line = (page, [name, values], kind = "") => page.element("tr", kind ? { class: kind } : {},
    page.element("th", { scope: "row" }, name), ...values.map((value) => page.element("td", {}, value)));

  const overSeeds = ({ seeds, is_same_setting: isSame }, page) => {
    if (isSame) return "same setting: seed noise";
    if (!seeds) return "one seed each";
    return `${interval(seeds)}, p ${pValue(seeds.p)}; ${seeds.first_seeds} and ${page.many(seeds.second_seeds, "seed")}`;
  };

  const differences = (page, { names, pairs }) => table(page,
    [`${names[0]} minus`, "Points [95% interval]", "p", `Only ${names[0]} correct`, "Only the other correct", "Over seeds, points [95% interval]"],
    pairs.map((pair) => {
      const cells = [interval(pair.images), pValue(pair.images.p), pair.images.first_only.toLocaleString("en"),
        pair.images.second_only.toLocaleString("en"), overSeeds(pair, page)];
      return line(page, [names[pair.second], cells]);
    }));

  pellucid.kinds.compare_runs = (root, data, page) => {
    const { names, results, differing, same } = data;
    root.querySelector(".results").append(table(page, ["", ...names], [
      ...results.map((row, number) => line(page, row, number ? "" : "main")),
      ...differing.map((row) => line(page, row)),
    ]));
    root.querySelector(".differences").append(differences(page, data));
    root.querySelector(".remark").textContent = "Percentage points on these test images, with the interval of Agresti and Min (2005). The p-value "
      + "is that of the exact McNemar test. Over seeds: Welch's t-test of the accuracies. p-values are adjusted for the number "
      + "of comparisons (Holm).";
    root.querySelector(".same summary").textContent = `${page.many(same.length, "identical setting")}`;
    root.querySelector(".same dl").append(...same.map(([name, value]) => page.element("div", {},
      page.element("dt", {}, name), page.element("dd", {}, value))));
    return null;
  };
})();
