/* Images that only one of two models classifies correctly. data: {names, classes, method, images: {rows, indices, size,
   channels, bytes} or null, pairs: [{second, counts, rows, indices, classes: [[true, wrong]], predictions: [of the first,
   of the second], confidences, maps: {size, bytes, factors} or null}]}. */
(() => {
  const FIRST = 12; // number of images shown at first

  const slice = (values, number, count) => values.subarray(number * count, (number + 1) * count);

  pellucid.kinds.compare_images = (root, data, page) => {
    const { names, classes, pairs, images } = data;
    const [list, status, field] = [".pairs-of-maps", ".shown", ".label"].map((name) => root.querySelector(name));
    const buttons = [...root.querySelectorAll("[data-only]")];
    const placeOf = new Map(images ? images.rows.map((row, place) => [row, place]) : []);
    const pixels = images ? page.unpack(images.bytes) : Promise.resolve(null);
    const maps = {};
    const more = root.querySelector(".more button");
    const now = { pair: 0, only: [true, true], label: "", isWhole: false };
    let turn = 0;

    const unpacked = (number) => {
      const { maps: packed } = pairs[number];
      maps[number] ??= packed ? Promise.all(packed.bytes.map(page.unpack)) : Promise.resolve(null);
      return maps[number];
    };

    const picture = (bytes, pair, number) => {
      const canvas = page.element("canvas", { class: "pixels", role: "img", "aria-label": `Test image ${pair.indices[number]}` });
      const [height, width] = images.size;
      const own = slice(bytes, placeOf.get(pair.rows[number]), height * width * images.channels);
      page.paintImage(canvas, images.size, images.channels, own);
      return { canvas, own };
    };

    const map = (values, pair, number, side, kind, image) => {
      const [height, width] = pair.maps.size[side];
      const own = new Int8Array(slice(values[side], 2 * number + kind, height * width));
      const label = `Map of ${names[side ? pair.second : 0]} for ${classes[pair.classes[number][kind]]}`;
      const canvas = page.element("canvas", { class: "pixels", role: "img", "aria-label": label });
      page.paintSigned(canvas, [height, width], own, pair.maps.factors[side][number][kind]);
      const box = page.element("div", { class: "map" }, canvas);
      const isAligned = image && height === images.size[0] && width === images.size[1];
      const outline = isAligned ? page.outline(images.size, images.channels, image.own) : null;
      if (outline) box.append(outline);
      return box;
    };

    const head = (pair, number, side) => {
      const prediction = pair.predictions[side][number];
      const isRight = prediction === pair.classes[number][0];
      const confidence = pair.confidences[side][number];
      return page.element("div", { class: `head ${isRight ? "right" : "wrong"}` },
        page.element("b", {}, names[side ? pair.second : 0]),
        `${classes[prediction]} ${isRight ? "✓" : "✗"} ${page.percent(confidence)}`);
    };

    const card = (pair, number, bytes, values) => {
      const [label, wrong] = pair.classes[number].map((one) => classes[one]);
      const image = bytes ? picture(bytes, pair, number) : null;
      const cells = [page.element("div", { class: "head" }, image ? image.canvas : ""), head(pair, number, 0), head(pair, number, 1)];
      if (values) {
        for (const kind of [0, 1]) {
          cells.push(page.element("div", { class: "of" }, `for ${[label, wrong][kind]}`),
            ...[0, 1].map((side) => map(values, pair, number, side, kind, image)));
        }
      }
      return page.element("li", { "data-image": pair.indices[number] },
        page.element("h3", {}, `${label} or ${wrong}? `, page.element("small", {}, `test image ${pair.indices[number]}`)),
        page.element("div", { class: "grid" }, ...cells));
    };

    const onlyOf = (pair, number) => (pair.predictions[0][number] === pair.classes[number][0] ? 0 : 1);

    /* Both directions in turn, so that the first images show both. */
    const inTurns = (pair, numbers) => {
      const sides = [0, 1].map((side) => numbers.filter((number) => onlyOf(pair, number) === side));
      const longest = Math.max(sides[0].length, sides[1].length);
      return Array.from({ length: longest }, (_, place) => sides.map((own) => own[place])).flat().filter((number) => number !== undefined);
    };

    const show = async () => {
      const mine = turn += 1;
      const pair = pairs[now.pair];
      const [bytes, values] = await Promise.all([pixels, unpacked(now.pair)]);
      if (mine !== turn) return; // another choice was made meanwhile
      const chosen = pair.rows.map((_, number) => number).filter((number) =>
        now.only[onlyOf(pair, number)] && (now.label === "" || pair.classes[number][0] === Number(now.label)));
      const total = pair.counts[0] + pair.counts[1];
      const shown = now.isWhole ? chosen : inTurns(pair, chosen).slice(0, FIRST);
      status.textContent = `${shown.length} of ${page.many(total, "image")} shown.${pair.rows.length < total ? ` The page has the ${pair.rows.length} with the most confident mistakes.` : ""}`;
      more.hidden = shown.length === chosen.length;
      more.textContent = `Show all ${chosen.length}`;
      list.replaceChildren(...shown.map((number) => card(pair, number, bytes, values)));
    };

    const choose = (position) => {
      Object.assign(now, { pair: position, label: "", isWhole: false });
      const pair = pairs[position];
      buttons.forEach((button, side) => {
        button.textContent = `Only ${names[side ? pair.second : 0]} correct (${pair.counts[side].toLocaleString("en")})`;
      });
      const labels = [...new Set(pair.classes.map(([label]) => label))].sort((a, b) => a - b);
      field.replaceChildren(page.element("option", { value: "" }, "all"),
        ...labels.map((label) => page.element("option", { value: label }, classes[label])));
      ready = show();
    };
    let ready = Promise.resolve();

    buttons.forEach((button, side) => button.addEventListener("click", () => {
      now.only[side] = !now.only[side];
      button.setAttribute("aria-pressed", now.only[side]);
      show();
    }));
    field.addEventListener("change", () => { now.label = field.value; show(); });
    more.addEventListener("click", () => { now.isWhole = true; show(); });
    page.onScheme(show);
    page.choosePair(root, names, pairs, choose);
    return { ready };
  };
})();
