/* Grids of images and maps, one for each epoch.

data: {size: [height, width], pool: [bytes], sheets: [{hook, label, moment, frames: {epoch: frame}}]}; several sheets get
a switch, whose legend is `switch` or else "Test images". frame: {caption, notes, rows, columns: [{text, detail, more, wrong, place: {image, method, class}}], along,
marks: [[row, column, is wrong]], captions, spread, blocks: [{row, column, shape: [rows, columns], meaning, bytes,
channels, limits, scales, signed}]}. Bytes (compressed with zlib, in base64) are those of (row, column, height, width);
an image has `channels` bytes per pixel, a map (no channels) has one signed byte v: −128 if it is not finite, else its
value is v × scale / 127. Colors end at the column's limit.
*/
{
  const NOT_FINITE = -128;
  const GAP = 3; // between two tiles, in CSS pixels
  const LEAST = 56; // sides of a tile, in CSS pixels
  const MOST = 104;
  const BESIDE = 40; // rows are painted when they are within this percentage of the window's height

  const HINT = matchMedia("(hover: none)").matches ? "Enlarge a tile to read its values."
    : "Point at a tile, or move to one with the arrow keys, to read its values. Press the space bar to enlarge it.";

  const scratch = document.createElement("canvas");

  /* Set the size of a canvas, which is slow even if it does not change. */
  const resize = (canvas, width, height) => {
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
  };

  /* Paint pixels (32 bits each) on a canvas with whole enlarged pixels, which stay sharp on any screen. */
  const enlarge = (canvas, [height, width], pixels, side) => {
    const factor = Math.max(1, Math.ceil(side * devicePixelRatio / width));
    resize(scratch, width, height);
    scratch.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
    resize(canvas, width * factor, height * factor);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(scratch, 0, 0, canvas.width, canvas.height);
  };

  const colour = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

  /* Return the 32-bit pixels of a tile. */
  const pixelsOf = (tile, page) => {
    const { block, values, scale, limit } = tile;
    const count = values.length / Math.max(1, block.channels);
    const pixels = new Uint32Array(count);
    if (block.channels) {
      for (let pixel = 0; pixel < count; pixel += 1) {
        const at = pixel * block.channels;
        pixels[pixel] = colour(block.channels === 3 ? values.subarray(at, at + 3) : [values[at], values[at], values[at]]);
      }
      return pixels;
    }
    const [table, steps] = [page.colours(), page.STEPS];
    const colours = Uint32Array.from({ length: 256 }, (_, byte) => {
      const value = byte - 128;
      if (value === NOT_FINITE) return colour([128, 132, 136]);
      return colour(table[steps + Math.max(-steps, Math.min(steps, Math.round(value * scale / limit)))]);
    });
    for (let pixel = 0; pixel < count; pixel += 1) pixels[pixel] = colours[values[pixel] + 128];
    return pixels;
  };

  /* Allow line breaks after underscores and dots. */
  const breakable = (page, text) => text.split(/(?<=[._])/).flatMap((part, number) => (number ? [page.element("wbr"), part] : [part]));

  /* Return the tiles of a frame as rows of {row, column, block, values, scale, limit, place, outline} or null. */
  const tilesOf = (frame, [height, width]) => {
    const tiles = frame.rows.map(() => frame.columns.map(() => null));
    for (const block of frame.blocks) {
      const length = height * width * Math.max(1, block.channels);
      for (let number = 0; number < block.shape[0] * block.shape[1]; number += 1) {
        const [down, across] = [Math.floor(number / block.shape[1]), number % block.shape[1]];
        const [row, column] = [block.row + down, block.column + across];
        if (frame.captions.length && frame.captions[row][column] === null) continue;
        tiles[row][column] = {
          row, column, block,
          values: block.values.subarray(number * length, (number + 1) * length),
          scale: block.scales?.[down][across], limit: block.limits?.[across] ?? block.limits?.[0],
          place: { ...frame.rows[row].place, ...frame.columns[column].place },
        };
      }
    }
    return tiles;
  };

  pellucid.kinds.grid = (root, data, page) => {
    const find = (selector) => root.querySelector(selector);
    const [height, width] = data.size;
    const table = find("table");
    const title = root.querySelector("h2").textContent;
    const at = { sheet: 0, epoch: null, frame: null, row: 0, column: 0, shape: "", side: LEAST, pixel: null };
    let tiles = []; // by row and column
    let cells = []; // {tile: element, canvas}
    const stale = new Set(); // rows to paint when they come near
    const near = new Set();

    const sign = (text) => text.detail && text.wrong ? ` (${text.detail})` : "";
    const nameOf = (tile) => {
      const [row, column] = [at.frame.rows[tile.row], at.frame.columns[tile.column]];
      return `${row.text}${sign(row)}, ${column.text}${sign(column)}`;
    };
    const mark = (tile) => at.frame.marks.find(([row, column]) => row === tile.row && column === tile.column);

    /* --- values --------------------------------------------------------------------------------------------- */

    const valueAt = (tile, pixel) => {
      const { block, values, scale } = tile;
      if (!block.channels) return values[pixel] === NOT_FINITE ? "not finite" : page[block.signed ? "signed" : "digits"](values[pixel] * scale / page.STEPS);
      const shares = [...values.subarray(pixel * block.channels, (pixel + 1) * block.channels)].map((value) => (value / 255).toFixed(2));
      return shares.length === 1 ? shares[0] : `(${shares.join(", ")})`;
    };
    const rangeOf = (tile) => {
      if (tile.block.channels) return "";
      let [low, high, unknown] = [page.STEPS + 1, NOT_FINITE, 0];
      for (const value of tile.values) {
        if (value === NOT_FINITE) unknown += 1;
        else if (value < low) low = value;
        if (value > high) high = value;
      }
      if (unknown === tile.values.length) return "not finite";
      const texts = [low, high].map((value) => page[tile.block.signed ? "signed" : "digits"](value * tile.scale / page.STEPS));
      return `${texts.join(" to ")}${unknown ? ", partly not finite" : ""}`;
    };
    const captionOf = (tile) => at.frame.captions[tile.row]?.[tile.column] ?? "";
    const spoken = (tile) => {
      const framed = mark(tile);
      const parts = [nameOf(tile), rangeOf(tile) && `values ${rangeOf(tile)}`, captionOf(tile), framed && `prediction${framed[2] ? ", wrong" : ""}`];
      return parts.filter(Boolean).join(": ").replace(/: (?=prediction)/, ", ");
    };
    const readout = (tile, pixel) => {
      const range = rangeOf(tile);
      const where = pixel === null ? "" : `; row ${Math.floor(pixel / width)}, column ${pixel % width}: ${valueAt(tile, pixel)}`;
      const unit = tile.block.limits?.length > 1 ? "" : tile.block.meaning;
      return `${nameOf(tile)}${range ? `: ${range}` : ""}${captionOf(tile) ? `: ${captionOf(tile)}` : ""}${where}${unit && range ? ` (${unit})` : ""}`;
    };

    /* --- painting ------------------------------------------------------------------------------------------- */

    const paint = (canvas, tile, side) => enlarge(canvas, data.size, pixelsOf(tile, page), side);
    const outlines = new Map(); // by image: epochs that show the same images share them
    const outlineOf = (tile) => {
      const { along } = at.frame;
      if (tile.block.channels || !along) return null;
      const image = along === "rows" ? tiles[tile.row].find((one) => one?.block.channels) : tiles.find((row) => row[tile.column]?.block.channels)?.[tile.column];
      if (!image) return null;
      const key = `${image.block.bytes} ${image.row} ${image.column}`;
      if (!outlines.has(key)) outlines.set(key, page.outline(data.size, image.block.channels, image.values));
      return outlines.get(key) && { key, make: () => outlines.get(key).cloneNode(true) };
    };
    const paintRow = (row) => {
      stale.delete(row);
      tiles[row].forEach((tile, column) => {
        if (!tile) return;
        const cell = cells[row][column];
        paint(cell.canvas, tile, at.side);
        const outline = outlineOf(tile);
        if (outline?.key === cell.outlined) return;
        cell.outlined = outline?.key;
        cell.tile.querySelector(".outline")?.remove();
        if (outline) cell.tile.append(outline.make());
      });
    };
    const repaint = () => {
      tiles.forEach((_, row) => (near.has(row) ? paintRow(row) : stale.add(row)));
      fillBars();
    };
    const watch = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const row = Number(target.dataset.row);
        near[isIntersecting ? "add" : "delete"](row);
        if (isIntersecting && stale.has(row)) paintRow(row);
      }
    }, { rootMargin: `${BESIDE}% 0px` });

    /* Choose the side of a tile so that the grid fills the section, if its labels stay legible. */
    const fit = () => {
      const { columns } = at.frame;
      const label = table.querySelector("tbody th")?.offsetWidth ?? 0;
      const room = (find(".region").clientWidth - label - 10) / columns.length - GAP;
      const side = Math.max(LEAST, Math.min(MOST, Math.floor(room)));
      if (side === at.side) return;
      at.side = side;
      table.closest("figure").style.setProperty("--tile", `${side}px`);
      repaint();
    };

    /* --- labels --------------------------------------------------------------------------------------------- */

    const labelled = (cell, { text, detail, more, wrong }) => {
      cell.replaceChildren(...[["name", text], [wrong ? "detail wrong" : "detail", detail], ["detail", more]]
        .filter(([, line]) => line)
        .map(([kind, line]) => page.element("span", { class: kind, title: line }, ...breakable(page, line))));
    };

    const fillBars = () => {
      const bars = new Map();
      for (const block of at.frame.blocks) {
        if (block.channels === 3 || !block.meaning) continue;
        const isWhole = block.shape[0] === at.frame.rows.length;
        const rows = at.frame.blocks.length > 2 && !isWhole ? at.frame.rows.slice(block.row, block.row + block.shape[0]).map((row) => row.text).join(", ") : "";
        bars.set(`${block.meaning} ${block.limits}`, { block, rows });
      }
      find(".bars").replaceChildren(...[...bars.values()].map(({ block, rows }) => {
        const canvas = page.element("canvas", { "aria-hidden": "true" });
        const count = 2 * page.STEPS + 1;
        const steps = Int8Array.from({ length: count }, (_, step) => (block.signed ? step - page.STEPS : step / 2));
        const values = block.channels ? Uint8Array.from({ length: count }, (_, step) => step) : steps;
        enlarge(canvas, [1, count], pixelsOf({ block: { channels: block.channels }, values, scale: 1, limit: 1 }, page), count);
        const end = block.channels ? "1" : block.limits.length > 1 ? "1" : page.digits(block.limits[0]);
        const ends = block.signed ? [`−${end}`, "0", `+${end}`] : ["0", end];
        const images = block.channels ? "image" : rows;
        return page.element("li", {}, canvas, page.element("span", { class: "ends" }, ...ends.map((text) => page.element("span", {}, text))),
          page.element("span", { class: "meaning" }, `${block.meaning}${images ? ` (${images})` : ""}`));
      }));
    };

    const fillSpread = (spread) => {
      const box = find(".spread");
      if (!spread) return box.replaceChildren();
      const most = Math.max(...spread.counts);
      const step = (spread.high - spread.low) / spread.counts.length;
      const across = 100 / spread.counts.length;
      const bars = spread.counts.map((count, bin) => {
        const rect = page.drawn("rect", { x: bin * across, width: across * 0.94, y: 100 * (1 - count / most), height: 100 * count / most });
        const ends = [spread.low + bin * step, spread.low + (bin + 1) * step].map((value) => page.digits(value));
        rect.append(page.drawn("title", {}, `${ends.join(" to ")}: ${page.many(count, "image")}`));
        return rect;
      });
      const middle = 100 * (spread.median - spread.low) / (spread.high - spread.low);
      const text = `Histogram of the ${spread.meaning}, over ${page.many(spread.counts.reduce((a, b) => a + b), "image")}: `
        + `${page.digits(spread.low)} to ${page.digits(spread.high)}, median ${page.digits(spread.median)} (dashed), at most ${page.many(most, "image")} per bar.`;
      box.replaceChildren(page.element("figure", {},
        page.drawn("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": text }, ...bars,
          page.drawn("line", { x1: middle, x2: middle, y1: 0, y2: 100 })),
        page.element("div", { class: "ends", "aria-hidden": "true" }, ...[spread.low, spread.high].map((value) => page.element("span", {}, page.digits(value)))),
        page.element("figcaption", {}, text)));
    };

    /* --- the table ------------------------------------------------------------------------------------------ */

    const isLinked = "explain" in page.sections;
    const build = () => {
      watch.disconnect();
      near.clear();
      const starts = (side) => new Set(at.frame.blocks.map((block) => block[side]).filter(Boolean));
      const [down, right] = [starts("row"), starts("column")];
      const place = (row, column) => [down.has(row) && "down", right.has(column) && "right"].filter(Boolean).join(" ");
      const head = page.element("tr", {}, page.element("td"), ...at.frame.columns.map((_, column) => page.element("th", { scope: "col", class: place(-1, column) })));
      cells = at.frame.rows.map((_, row) => at.frame.columns.map((_, column) => {
        const tile = tiles[row][column];
        const cell = page.element("td", { class: place(row, column) });
        if (!tile) return { cell };
        const canvas = page.element("canvas", { "aria-hidden": "true" });
        const isLink = isLinked && tile.place.image !== undefined;
        const box = page.element(isLink ? "a" : "button", { class: "tile", tabindex: -1, ...(isLink ? {} : { type: "button" }) }, canvas);
        Object.assign(box.dataset, { row, column });
        cell.append(box);
        return { cell, tile: box, canvas };
      }));
      const body = at.frame.rows.map((_, row) => page.element("tr", { "data-row": row },
        page.element("th", { scope: "row", class: place(row, -1) }), ...cells[row].map(({ cell }) => cell)));
      table.replaceChildren(page.element("thead", {}, head), page.element("tbody", {}, ...body));
      for (const row of body) watch.observe(row);
    };

    const fill = () => {
      const { frame } = at;
      [...table.querySelectorAll("thead th")].forEach((cell, column) => labelled(cell, frame.columns[column]));
      [...table.querySelectorAll("tbody th")].forEach((cell, row) => labelled(cell, frame.rows[row]));
      for (const tile of tiles.flat().filter(Boolean)) {
        const { cell, tile: box } = cells[tile.row][tile.column];
        box.setAttribute("aria-label", spoken(tile));
        const framed = mark(tile);
        const isLink = box.localName === "a";
        box.className = ["tile", isLink && "opener", framed && "framed", framed?.[2] && "wrong"].filter(Boolean).join(" ");
        if (isLink) box.href = page.href({ section: "explain", ...tile.place });
        cell.querySelector("small")?.remove();
        if (captionOf(tile)) cell.append(page.element("small", { "aria-hidden": "true" }, captionOf(tile)));
      }
      const explained = frame.along && isLinked ? [" Select a tile to explain its test image."] : [];
      const outlined = tiles.flat().some((tile) => tile && outlineOf(tile)) ? [" Thin line: outline of the test image."] : [];
      find("figcaption").textContent = [frame.caption, ...frame.notes].join(" ").concat(...outlined, ...explained);
      say("");
      fillSpread(frame.spread);
    };

    const draw = (frame) => {
      at.frame = frame;
      tiles = tilesOf(frame, data.size);
      const shape = JSON.stringify([frame.rows.length, frame.columns.length, tiles.map((row) => row.map((tile) => tile && tile.place.image !== undefined)),
        frame.blocks.map((block) => [block.row, block.column])]);
      const isNew = shape !== at.shape;
      if (isNew) build();
      at.shape = shape;
      fill();
      if (!tiles[at.row]?.[at.column]) [at.row, at.column] = [0, Math.max(0, tiles[0].findIndex(Boolean))];
      select(at.row, at.column, false);
      if (isNew) fit();
      repaint();
      if (dialog.open && current()) showLarge(); // the epochs may be playing
    };

    /* --- selection ------------------------------------------------------------------------------------------ */

    const current = () => tiles[at.row]?.[at.column];
    const select = (row, column, isFocused = true) => {
      const before = cells[at.row]?.[at.column]?.tile;
      if (before) before.tabIndex = -1;
      Object.assign(at, { row, column });
      const box = cells[row]?.[column]?.tile;
      if (!box) return;
      box.tabIndex = 0;
      if (isFocused) box.focus();
    };
    /* Go on in a direction to the next tile that exists. */
    const step = (down, across) => {
      let [row, column] = [at.row + down, at.column + across];
      while (tiles[row] && column >= 0 && column < tiles[row].length && !tiles[row][column]) [row, column] = [row + down, column + across];
      return tiles[row]?.[column] ? [row, column] : null;
    };
    const ends = (isFirst, isWhole) => {
      const row = isWhole ? (isFirst ? 0 : tiles.length - 1) : at.row;
      const column = isFirst ? tiles[row].findIndex(Boolean) : tiles[row].findLastIndex(Boolean);
      return [row, column];
    };
    const MOVES = {
      ArrowLeft: () => step(0, -1), ArrowRight: () => step(0, 1), ArrowUp: () => step(-1, 0), ArrowDown: () => step(1, 0),
      Home: (event) => ends(true, event.ctrlKey), End: (event) => ends(false, event.ctrlKey),
    };
    const boxOf = (event) => event.target.closest?.(".tile");
    const pixelOf = (event, box) => {
      const area = box.getBoundingClientRect();
      const [row, column] = [[event.clientY - area.top, area.height, height], [event.clientX - area.left, area.width, width]]
        .map(([offset, length, count]) => Math.max(0, Math.min(count - 1, Math.floor(offset / length * count))));
      return row * width + column;
    };
    const tileAt = (box) => tiles[box.dataset.row]?.[box.dataset.column];

    /* --- enlarged view -------------------------------------------------------------------------------------- */

    const dialog = find("dialog");
    const tell = () => {
      const tile = current();
      const spot = dialog.querySelector(".mark");
      spot.hidden = at.pixel === null;
      dialog.querySelector(".readout").textContent = readout(tile, at.pixel);
      if (at.pixel === null) return;
      const style = { left: (at.pixel % width) / width, top: Math.floor(at.pixel / width) / height, width: 1 / width, height: 1 / height };
      for (const [side, share] of Object.entries(style)) spot.style[side] = `${100 * share}%`;
    };
    const showLarge = () => {
      const tile = current();
      at.enlarged = [tile.row, tile.column];
      const frame = dialog.querySelector(".frame");
      const side = Math.min(innerWidth - 60, (innerHeight - 260) * width / height, 560);
      Object.assign(frame.style, { width: `${side}px`, height: `${side * height / width}px` });
      dialog.querySelector("h3").textContent = nameOf(tile);
      const canvas = dialog.querySelector("canvas");
      paint(canvas, tile, side);
      canvas.setAttribute("aria-label", `${spoken(tile)}. Use the arrow keys to read its pixels.`);
      frame.querySelector(".outline")?.remove();
      const outline = outlineOf(tile);
      if (outline) frame.append(outline.make());
      const { image, method = null, class: label = null } = tile.place;
      dialog.querySelector(".link").replaceChildren(...(image === undefined || !isLinked ? [] : [page.opener(image, { method, label }, `Explain test image ${image}`)]));
      tell();
    };
    const open = () => {
      at.pixel = null;
      if (!dialog.open) dialog.showModal();
      showLarge();
      dialog.querySelector("canvas").focus();
    };
    const order = () => tiles.flat().filter(Boolean);
    const turn = (by) => {
      const all = order();
      const next = all[(all.indexOf(current()) + by + all.length) % all.length];
      select(next.row, next.column, false);
      showLarge();
    };
    const pressPixel = (event) => {
      const [row, column] = at.pixel === null ? [height >> 1, width >> 1] : [Math.floor(at.pixel / width), at.pixel % width];
      const [down, across] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key] ?? [];
      if (down === undefined) return;
      event.preventDefault();
      const [y, x] = at.pixel === null ? [row, column] : [row + down, column + across];
      if (y >= 0 && y < height && x >= 0 && x < width) at.pixel = y * width + x;
      tell();
    };

    /* --- events --------------------------------------------------------------------------------------------- */

    const say = (text) => {
      find(".told .readout").textContent = text || HINT;
      find(".told .readout").classList.toggle("hint", !text);
    };
    const listen = () => {
      const zoom = page.element("button", { type: "button", class: "zoom", tabindex: -1, "aria-hidden": "true", title: "Enlarge" }, "⤢");
      for (const kind of ["pointermove", "pointerdown"]) {
        table.addEventListener(kind, (event) => {
          const box = boxOf(event);
          if (!box) return;
          say(readout(tileAt(box), pixelOf(event, box)));
          if (zoom.previousElementSibling === box) return;
          box.after(zoom);
          Object.assign(zoom.style, { top: `${box.offsetTop + box.offsetHeight - 24}px`, left: `${box.offsetLeft + box.offsetWidth - 24}px` });
        });
      }
      table.addEventListener("pointerleave", () => { zoom.remove(); say(""); });
      zoom.addEventListener("click", () => {
        const tile = tileAt(zoom.previousElementSibling);
        select(tile.row, tile.column, false);
        open();
      });
      table.addEventListener("focusin", (event) => {
        const box = boxOf(event);
        if (!box) return;
        select(Number(box.dataset.row), Number(box.dataset.column), false);
        say(readout(current(), null));
      });
      table.addEventListener("click", (event) => {
        const box = boxOf(event);
        if (box?.localName !== "button") return;
        select(Number(box.dataset.row), Number(box.dataset.column), false);
        open();
      });
      table.addEventListener("keydown", (event) => {
        if (!boxOf(event) || event.metaKey || event.altKey) return;
        if (event.key === " ") {
          event.preventDefault();
          return open();
        }
        const next = MOVES[event.key]?.(event);
        if (!MOVES[event.key]) return;
        event.preventDefault();
        if (next) select(...next);
      });
      find(".enlarge").addEventListener("click", open);
      find(".previous").addEventListener("click", () => turn(-1));
      find(".next").addEventListener("click", () => turn(1));
      find(".close").addEventListener("click", () => dialog.close());
      dialog.addEventListener("click", (event) => { if (event.target.closest("a")) dialog.close(); });
      // the browser has returned the focus to the tile that was enlarged first
      dialog.addEventListener("close", () => select(...at.enlarged));
      const large = dialog.querySelector("canvas");
      large.addEventListener("keydown", pressPixel);
      for (const kind of ["pointermove", "pointerdown"]) {
        large.addEventListener(kind, (event) => { at.pixel = pixelOf(event, large); tell(); });
      }
      new ResizeObserver(() => at.frame && fit()).observe(find(".region"));
      page.onScheme(() => {
        if (!at.frame) return;
        repaint();
        if (dialog.open) showLarge();
      });
    };

    /* --- epochs --------------------------------------------------------------------------------------------- */

    const decoded = async (frame) => {
      await Promise.all(frame.blocks.map(async (block) => {
        if (block.values) return;
        const bytes = await page.unpack(data.pool[block.bytes]);
        // the same bytes, read as signed integers
        block.values = block.channels ? bytes : new Int8Array(bytes.buffer);
      }));
      return frame;
    };
    const show = async () => {
      const { frames, moment } = data.sheets[at.sheet];
      const shown = page.latest(frames, at.epoch);
      find(".which").textContent = moment || page.stale(shown, at.epoch);
      find(".which").classList.toggle("calm", Boolean(moment));
      if (frames[shown] === at.wanted) return;
      at.wanted = frames[shown];
      const frame = await decoded(frames[shown]);
      // another epoch may have been selected meanwhile
      if (frame === at.wanted) draw(frame);
      root.dataset.ready = "true";
    };
    const attempt = () => show().catch((error) => {
      root.querySelector(".body").replaceChildren(page.element("p", { class: "notice" }, `This section cannot be shown: ${error.message}`));
    });

    if (data.sheets.length > 1) {
      find(".sheets").hidden = false;
      if (data.switch) find(".sheets legend").textContent = data.switch;
      find(".sheets").append(...data.sheets.map(({ label }, number) => {
        const radio = page.element("input", { type: "radio", name: `${root.id}-sheet`, value: number });
        radio.checked = number === 0;
        radio.addEventListener("change", () => { at.sheet = number; attempt(); });
        return page.element("label", {}, radio, label);
      }));
    }
    table.closest("figure").style.setProperty("--ratio", height / width);
    table.setAttribute("aria-label", title);
    dialog.setAttribute("aria-label", `${title}: enlarged tile`);
    listen();
    let filled;
    const ready = new Promise((resolve) => { filled = resolve; });
    return {
      show: (epoch) => { at.epoch = epoch; attempt().then(filled); },
      ready,
      paint: () => { for (const row of stale) paintRow(row); },
    };
  };
}
