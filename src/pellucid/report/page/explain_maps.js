/* Images and relevance maps of the section "explain": stored ones, decoded when they are first shown, and ones that the
   network in the page computes.

data: {size: [height, width], source: {size, channels}, is_exact, has_whole_images, noun, opens_on, remarks, methods: [name],
parts: [{indices, labels (or none), predictions, confidences, targets (or none), titles, classes, logits, probabilities:
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
        limit: of("limits"), sharedLimit: part.shared_limits[number][row], isLive: false,
        expected: of("expected"), residual: of("residual"), allowed: of("allowed"),
      };
    };

    const results = new Map(); // of the network in the page, by image and class
    const outputs = new Map(); // the same by image, for logits and probabilities
    const liveNames = () => (page.runModel ? ["gradient", "input_x_gradient", "lrp.epsilon"] : []);
    const canRun = (image) => Boolean(page.runModel) && image.isWhole
      && String(page.modelInput) === String([image.channels, ...image.size]);
    const key = (image, label) => `${image.index} ${label}`;

    const run = async (image, label) => {
      const result = await page.runModel(inputOf(image), label);
      results.set(key(image, label), result);
      outputs.set(image.index, result);
      return result;
    };

    const liveMap = (image, method, label) => {
      const result = results.get(key(image, label));
      if (!result.maps) return null; // the logits are not finite
      const values = result.maps[method];
      const absorbed = ({ bias, stabiliser, constant }) => bias + stabiliser + constant;
      const expected = method === "lrp.epsilon" ? result.certificate.logit - absorbed(result.certificate) : null;
      const limit = limitOf(values);
      const total = values.reduce((sum, value) => sum + value, 0);
      return { values, unit: 1, size: image.size, limit, sharedLimit: null, isLive: true, expected,
        residual: expected === null ? null : total - expected, allowed: null };
    };

    /* Return an image for other sections, as `page.findImage` does; null if it is not stored here. */
    const offered = (index) => {
      const image = stored.find((one) => one.index === index);
      if (!image) return null;
      const { size, channels, bytes, label, prediction, confidence, isWhole } = image;
      return { index, size, channels, bytes, label, prediction, confidence, isExact: isWhole };
    };

    return {
      images: stored, offered, ready, find, isStored, canRun, liveNames,
      names: () => [...new Set([...data.methods, ...liveNames()])],
      isAvailable: (image, method, label) => isStored(image, method, label) || (canRun(image) && liveNames().includes(method)),
      /* Return a map {values, unit, size, limit, sharedLimit, expected, residual, allowed, isLive} (its relevance is
         value × unit); undefined until `load` is done; null if there is none. */
      map: (image, method, label) => {
        if (isStored(image, method, label)) {
          return image.part.decoded[data.methods.indexOf(method)] ? storedMap(image, method, label) : undefined;
        }
        if (!canRun(image) || !liveNames().includes(method)) return null;
        return results.has(key(image, label)) ? liveMap(image, method, label) : undefined;
      },
      load: (image, method, label) =>
        (isStored(image, method, label) ? decode(image.part, data.methods.indexOf(method)) : run(image, label)),
      /* Return the logit and the probability of a class, null if unknown. */
      scores: (image, label) => {
        const position = image.classes.indexOf(label);
        const result = outputs.get(image.index);
        return {
          logit: image.logits?.[position] ?? result?.logits[label] ?? null,
          probability: image.probabilities?.[position] ?? result?.probabilities[label] ?? null,
        };
      },
    };
  };
}
