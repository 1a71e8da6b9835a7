/* Images and relevance maps of the section "explain": stored ones, decoded when they are first shown, and ones that are
   computed by the network in the page or, in pages that `pellucid serve` sends, by the server.

data: {size: [height, width], source: {size, channels}, is_exact, has_whole_images, noun, opens_on, remarks, methods: [name], parts: [{indices, labels (or none), predictions, confidences, targets (or none), titles, classes, logits, probabilities:
(image, class), source: bytes of the images, maps: by method, bytes of (image, class, height, width) int8 or null;
scales, limits, expected, residual, allowed: by method, (image, class) or null; shared_limits: by method, (image)}]}.
A map's value is scale × number / 127. Bytes are compressed with zlib and encoded in base64.

An image is {index, title, label, prediction, confidence, target, classes, logits, probabilities, part, row, size,
channels, bytes, isWhole}; label, confidence, target, logits and probabilities are null if unknown, and part is null
if the page stores no maps of it. */
{
  /* Return the limit of a color scale that clips at most 0.2% of the values; 1 for a map of zeros. */
  const limitOf = (values) => {
    const sorted = Float64Array.from(values, Math.abs).filter(Number.isFinite).sort();
    if (!sorted.length) return 1;
    const place = 0.998 * (sorted.length - 1);
    const [low, high] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
    return low + (high - low) * (place - Math.floor(place)) || sorted[sorted.length - 1] || 1;
  };

  /* Return the pixels of an image of bytes in the order of the network's input: channel by channel, in [0, 1]. */
  const inputOf = ({ size: [height, width], channels, bytes }) => {
    const count = height * width;
    return Float32Array.from({ length: count * channels }, (_, place) => bytes[(place % count) * channels + Math.floor(place / count)] / 255);
  };

  pellucid.explainMaps = (data, page) => {
    const [height, width] = data.size;
    const parts = data.parts.map((part) => ({ ...part, decoded: data.methods.map(() => null), loading: data.methods.map(() => null) }));
    const noun = data.noun.charAt(0).toUpperCase() + data.noun.slice(1);

    const stored = parts.flatMap((part) => part.indices.map((index, row) => {
      const prediction = part.predictions[row];
      const position = part.classes[row].indexOf(prediction);
      return {
        index, part, row, prediction,
        title: part.titles[row] || `${noun} ${index}`,
        label: part.labels?.[row] ?? null,
        confidence: part.confidences?.[row] ?? part.probabilities?.[row][position] ?? null,
        target: part.targets?.[row] ?? null,
        classes: part.classes[row],
        logits: part.logits?.[row] ?? null,
        probabilities: part.probabilities?.[row] ?? null,
        ...data.source,
        bytes: null, // set by `ready`
        isWhole: data.has_whole_images,
      };
    }));
    const byIndex = new Map(stored.map((image) => [image.index, image]));

    const ready = Promise.all(parts.map(async (part) => {
      const bytes = await page.unpack(part.source);
      const length = data.source.size[0] * data.source.size[1] * data.source.channels;
      for (const image of stored) {
        if (image.part === part) image.bytes = bytes.subarray(image.row * length, (image.row + 1) * length);
      }
    }));

    /* Find an image: a stored one, or one of another section without maps; null if no section has its pixels. */
    const find = async (index) => {
      await ready;
      if (byIndex.has(index)) return byIndex.get(index);
      const found = await page.findImage(index);
      if (!found) return null;
      const image = {
        title: `${noun} ${index}`, label: null, confidence: null, target: null, logits: null, probabilities: null,
        ...found, index, part: null, row: null, classes: [], isWhole: found.isExact,
      };
      byIndex.set(index, image);
      return image;
    };

    /* --- maps ----------------------------------------------------------------------------------------------- */

    const isStored = (image, method, label) =>
      Boolean(image.part?.maps[data.methods.indexOf(method)]) && image.classes.includes(label);

    const decode = (part, number) => {
      part.loading[number] ??= page.unpack(part.maps[number]).then((bytes) => {
        part.decoded[number] = new Int8Array(bytes.buffer); // the same bytes, read as signed integers
      });
      return part.loading[number];
    };

    const storedMap = (image, method, label) => {
      const [{ part, row }, number, position] = [image, data.methods.indexOf(method), image.classes.indexOf(label)];
      const start = (row * image.classes.length + position) * height * width;
      const of = (name) => part[name][number]?.[row][position] ?? null;
      return {
        values: part.decoded[number].subarray(start, start + height * width), unit: of("scales") / page.STEPS, size: data.size,
        limit: of("limits"), sharedLimit: part.shared_limits[number][row], origin: "",
        expected: of("expected"), residual: of("residual"), allowed: of("allowed"),
      };
    };

    const computed = new Map(); // maps by image, method and class
    const outputs = new Map(); // {logits, probabilities} by image
    const key = (image, method, label) => [image.index, method, label].join(" ");
    const pageNames = () => (page.runModel ? ["gradient", "input_x_gradient", "lrp.epsilon"] : []);
    let known = null; // names of the server's methods
    const serverNames = () => {
      if (!page.served) return [];
      known ??= JSON.parse(document.getElementById("data-live").textContent).methods.map((method) => method.name);
      return known;
    };
    const canRun = (image) => Boolean(page.runModel) && image.isWhole
      && String(page.modelInput) === String([image.channels, ...image.size]);
    const isInPage = (image, method) => canRun(image) && pageNames().includes(method);

    const run = async (image, label) => {
      await new Promise((resolve) => { setTimeout(resolve); }); // lets the page react between the classes
      const { maps, logits, probabilities, certificate } = await page.runModel(inputOf(image), label);
      outputs.set(image.index, { logits, probabilities });
      for (const method of pageNames()) {
        // null: the logits are not finite
        const values = maps?.[method] ?? new Float32Array(image.size[0] * image.size[1]);
        const isExact = maps && method === "lrp.epsilon";
        const expected = isExact ? certificate.logit - certificate.bias - certificate.stabiliser - certificate.constant : null;
        const total = values.reduce((sum, value) => sum + value, 0);
        computed.set(key(image, method, label), { values, unit: 1, size: image.size, limit: limitOf(values), sharedLimit: null,
          expected, residual: isExact ? total - expected : null, allowed: null, origin: "Computed in this page." });
      }
    };
    let control = null; // of the request under way
    const ask = async (image, method, label) => {
      control?.abort(); // only the last map asked for is shown
      control = new AbortController();
      const { values, size, limit, sums, probabilities, logit } = await page.served({ index: image.index, method, class: label }, control.signal);
      if (!outputs.has(image.index)) outputs.set(image.index, { logits: { [label]: logit }, probabilities: probabilities ?? {} });
      computed.set(key(image, method, label), { values, unit: 1, size, limit, sharedLimit: null, expected: sums?.expected ?? null,
        residual: sums?.residual ?? null, allowed: sums?.allowed ?? null, origin: "Computed by the server." });
    };

    /* Return an image for other sections, as `page.findImage` does; null if it is not stored here. */
    const offered = (index) => {
      const image = stored.find((one) => one.index === index);
      if (!image) return null;
      const { size, channels, bytes, label, prediction, confidence, isWhole } = image;
      return { index, size, channels, bytes, label, prediction, confidence, isExact: isWhole };
    };

    const isQuick = (image, method, label) => isStored(image, method, label) || isInPage(image, method);

    return {
      images: stored, offered, ready, find, isQuick,
      names: () => [...new Set([...data.methods, ...pageNames(), ...serverNames()])],
      /* True if maps of any class can be computed. */
      isOpen: (image) => canRun(image) || serverNames().length > 0,
      isAvailable: (image, method, label) => isQuick(image, method, label) || serverNames().includes(method),
      /* Return a map {values, unit, size, limit, sharedLimit, expected, residual, allowed, origin} (its relevance is
         value × unit, and `origin` is a sentence if it is not stored); undefined until `load` is done; null if there is
         none. */
      map: (image, method, label) => {
        if (isStored(image, method, label)) {
          return image.part.decoded[data.methods.indexOf(method)] ? storedMap(image, method, label) : undefined;
        }
        const isPossible = isInPage(image, method) || serverNames().includes(method);
        return computed.get(key(image, method, label)) ?? (isPossible ? undefined : null);
      },
      load: (image, method, label) => {
        if (isStored(image, method, label)) return decode(image.part, data.methods.indexOf(method));
        return isInPage(image, method) ? run(image, label) : ask(image, method, label);
      },
      /* Return the logit and the probability of a class, null if unknown. */
      scores: (image, label) => {
        const [position, output] = [image.classes.indexOf(label), outputs.get(image.index)];
        return {
          logit: image.logits?.[position] ?? output?.logits[label] ?? null,
          probability: image.probabilities?.[position] ?? output?.probabilities[label] ?? null,
        };
      },
    };
  };
}
