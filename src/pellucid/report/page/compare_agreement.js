/* Agreement of explanations. data: {names, pairs: [{second, rows: [{method, mean, low, high}]}], between_methods,
   between_seeds: rows, seeds: names}. */
(() => {
  const LOW = -0.25; // left end of the bars; the right end is 1

  const text = ({ mean, low, high }) => {
    if (mean === null) return "–";
    const number = (value) => value.toFixed(2).replace("-", "−");
    return low === null ? number(mean) : `${number(mean)} [${number(low)}, ${number(high)}]`;
  };

  const bar = ({ mean, low, high }, page) => {
    const across = (value) => 100 * ((Math.max(value, LOW) - LOW) / (1 - LOW));
    const svg = page.drawn("svg", { class: "bar", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" });
    if (mean === null) return svg;
    const [start, end] = [across(Math.min(0, mean)), across(Math.max(0, mean))];
    svg.append(page.drawn("rect", { class: "fill", x: start, y: 2, width: end - start, height: 8 }),
      page.drawn("path", { class: "zero", d: `M${across(0)} 0V12`, "vector-effect": "non-scaling-stroke" }),
      page.drawn("path", { class: "span", d: `M${across(low ?? mean)} 6H${across(high ?? mean)}`, "vector-effect": "non-scaling-stroke" }),
      page.drawn("path", { class: "mean", d: `M${across(mean)} 1V11`, "vector-effect": "non-scaling-stroke" }));
    return svg;
  };

  pellucid.kinds.compare_agreement = (root, data, page) => {
    const { names, pairs, between_methods: methods, between_seeds: noise, seeds } = data;
    const table = root.querySelector("table");
    const show = (position) => {
      const { second, rows } = pairs[position];
      const isSeed = seeds.includes(names[second]);
      const heads = ["Method", `${names[0]} and ${names[second]}`, "", ...(noise.length && !isSeed ? [`${names[0]} and its other seeds`] : [])];
      const line = (row) => page.element("tr", {}, page.element("th", { scope: "row" }, row.method), page.element("td", {}, text(row)),
        page.element("td", {}, bar(row, page)),
        ...(heads.length > 3 ? [page.element("td", {}, text(noise.find((one) => one.method === row.method) ?? { mean: null }))] : []));
      const beside = methods ? [page.element("tr", { class: "beside" },
        page.element("th", { scope: "row" }, `For comparison: different methods on ${names[0]}`), page.element("td", {}, text(methods)),
        page.element("td", {}, bar(methods, page)), ...(heads.length > 3 ? [page.element("td", {}, "")] : []))] : [];
      table.replaceChildren(
        page.element("thead", {}, page.element("tr", {}, ...heads.map((head) => (head ? page.element("th", { scope: "col" }, head) : page.element("td", {}, ""))))),
        page.element("tbody", {}, ...rows.map(line), ...beside));
    };
    page.choosePair(root, names, pairs, show);
    return null;
  };
})();
