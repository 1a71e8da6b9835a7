/* Channels of hidden layers, for the sections "channels" and "explain".

data: {layers: [{name, sizes, method, images, note, channels: [index], means: by row, [[class, mean relevance]], rankings:
{relevance, activation}: by row, [{index, label, prediction, crop, value, linked: true if the section "explain" shows it}], crops: see thumbnails.js, explained: {rows:
{index of a test image: place}, classes: (image, class), totals: (image, class), channels, values, scales: (image, class,
map), size: [height, width], maps: bytes of (image, class, map, height, width) int8} or null}]}. */
{
  let layers = null;

  const prepared = (layer) => {
    const rows = new Map(layer.channels.map((channel, row) => [channel, row]));
    let unpacking = null; // started on first use
    return {
      ...layer,
      pictures: pellucid.thumbnails(layer.crops),
      row: (channel) => rows.get(channel) ?? null,
      /* Return the strongest channels of a test image for a class, [{channel, value, map()}] and more; null if they are
         not stored. */
      contributions: (index, label) => {
        const place = layer.explained?.rows[index];
        const position = place === undefined ? -1 : layer.explained.classes[place].indexOf(label);
        if (position < 0) return null;
        const { channels, values, scales, totals, size } = layer.explained;
        const [own, length] = [channels[place][position], size[0] * size[1]];
        const map = async (number) => {
          unpacking ??= pellucid.unpack(layer.explained.maps).then((bytes) => new Int8Array(bytes.buffer));
          const start = ((place * channels[place].length + position) * own.length + number) * length;
          return { values: (await unpacking).subarray(start, start + length), unit: scales[place][position][number] / pellucid.STEPS, size };
        };
        return {
          total: totals[place][position],
          limit: Math.max(...scales[place][position]) || 1,
          items: own.map((channel, number) => ({ channel, value: values[place][position][number], map: () => map(number) })),
        };
      },
      /* Return the classes for which the channels of a test image are stored. */
      classesOf: (index) => layer.explained?.classes[layer.explained.rows[index]] ?? [],
    };
  };

  /* Return the layers; `data` is that of the section "channels", if it has been parsed. */
  pellucid.channelLayers = (data = null) => {
    layers ??= (data ?? JSON.parse(document.getElementById("data-channels").textContent)).layers.map(prepared);
    return layers;
  };

  /* Name the classes, at most three, for which the mean relevance is at least half of the largest. */
  pellucid.channelUse = (layer, channel) => {
    const means = layer.means[layer.row(channel)] ?? [];
    const largest = means[0]?.[1] ?? 0;
    if (largest <= 0) return "no evidence for any class";
    const names = means.filter(([, mean]) => mean >= largest / 2).slice(0, 3).map(([label]) => pellucid.classes[label] ?? `class ${label}`);
    return `for ${names.join(", ")}`;
  };

  /* Return {ranking, found}: the images on which a channel is most relevant or, if it is no evidence on any, most active. */
  pellucid.channelImages = (layer, channel) => {
    const [relevance, activation] = ["relevance", "activation"].map((name) => layer.rankings[name][layer.row(channel)] ?? []);
    return relevance.length || !activation.length ? { ranking: "relevance", found: relevance } : { ranking: "activation", found: activation };
  };

  /* Return the relevance of a channel and, unless the logit is small beside it, its share of that. */
  pellucid.channelAmount = ({ value }, { total, items }) => {
    const isShared = total !== null && items.every((one) => Math.abs(one.value) <= Math.abs(total));
    const share = isShared ? ` (${(100 * value / total).toFixed(1).replace("-", "−")}% of the logit)` : "";
    return `${pellucid.signed(value)}${share}`;
  };

  /* Return a bar whose length shows |value|, red for evidence for a class and blue against it. */
  pellucid.channelBar = (value, largest) => {
    const bar = pellucid.element("span", { class: value < 0 ? "amount against" : "amount for", "aria-hidden": "true" });
    bar.style.width = `${largest > 0 ? Math.max(1, 100 * Math.abs(value) / largest) : 1}%`;
    return pellucid.element("span", { class: "track" }, bar);
  };
}
