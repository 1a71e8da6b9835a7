/* Colors of the embedding's dots: by class, loss, confidence or correctness, each with its legend.

A mode is {text, fill(dot), order(dot), ring(dot), legend()}; a dot is {index, label, prediction, confidence, loss}.
Dots of a higher order are drawn later, on top of the others.
*/
{
  const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  // the part of the color map that stands out from the page, from faint to strong
  const ENDS = { light: [0.9, 0], dark: [0.2, 1] };

  /* The color map from 0, faint, to 1, strong, as a function to #rrggbb. */
  const sequential = (table) => (share) => {
    const [faint, strong] = ENDS[isDark() ? "dark" : "light"];
    const step = Math.round(255 * (faint + (strong - faint) * Math.min(1, Math.max(0, share))));
    return `#${table.slice(6 * step, 6 * step + 6)}`;
  };

  const tickText = (value) => (value >= 1e-4 ? String(Number(value.toPrecision(2))) : value.toExponential(0).replace("e-", "e−"));

  /* Powers of ten inside the range, and its ends where they are not too close to those. */
  const lossTicks = ([low, high]) => {
    const powers = [];
    for (let power = Math.ceil(Math.log10(low) - 1e-9); 10 ** power <= high; power += 1) powers.push(10 ** power);
    const inner = powers.filter((power) => power > low * 1.01 && power < high * 0.5);
    return [low, ...inner, high];
  };

  const bar = (page, { at, ticks, write, colour }) => {
    const track = page.element("div", { class: "track" });
    const stops = Array.from({ length: 17 }, (_, stop) => colour(stop / 16));
    track.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const labels = ticks.map((tick) => {
      const label = page.element("span", {}, write(tick));
      label.style.left = `${100 * at(tick)}%`;
      return label;
    });
    return page.element("div", { class: "bar", "aria-hidden": "true" }, track, page.element("div", { class: "ticks" }, ...labels));
  };

  const key = (page, shape, text) => page.element("span", { class: "key" }, page.element("span", { class: `mark ${shape}` }), text);

  const dotColours = (data, page, read) => {
    const strong = sequential(data.scale);
    const number = (value, share) => (Number.isFinite(value) ? share(value) : null);
    const lossShare = (loss) => {
      const [low, high] = data.loss_range;
      return Math.log(Math.max(loss, low) / low) / Math.log(high / low);
    };
    const doubt = (confidence) => {
      const [low, high] = data.confidence_range;
      return (high - confidence) / (high - low);
    };
    const paint = (share) => (share === null ? read("--unknown") : strong(share));
    const notes = (text, count) => [text, count ? `Gray: unknown (${count.toLocaleString("en")}).` : ""].filter(Boolean).join(" ");
    const scaled = ({ text, range, share, describe, ...scale }) => ({
      text,
      isAvailable: range !== null,
      fill: (dot) => paint(share(dot)),
      order: (dot) => share(dot) ?? -1,
      ring: () => read("--ink"),
      legend: (dots) => [
        bar(page, { ...scale, colour: strong }),
        page.element("p", {}, notes(describe, dots.filter((dot) => share(dot) === null).length)),
      ],
    });
    const [lossLow, lossHigh] = (data.loss_range ?? [0, 1]).map(tickText);
    const confidenceLow = (data.confidence_range ?? [0])[0];
    return {
      class: {
        text: "True class",
        isAvailable: true,
        fill: ({ label }) => data.colours[label],
        order: () => 0,
        ring: ({ prediction }) => data.colours[prediction],
        legend: () => [page.element("p", {}, "A dot has the color of its true class. A ring marks a misclassified image, in the color of the predicted class.")],
      },
      loss: scaled({
        text: "Loss",
        range: data.loss_range,
        share: ({ loss }) => number(loss, lossShare),
        at: lossShare,
        ticks: data.loss_range ? lossTicks(data.loss_range) : [],
        write: tickText,
        describe: `Loss (cross-entropy) from ${lossLow} to ${lossHigh} nats on a logarithmic scale, over all epochs; smaller losses have the color of ${lossLow}. Rings: misclassified.`,
      }),
      confidence: scaled({
        text: "Confidence",
        range: data.confidence_range,
        share: ({ confidence }) => number(confidence, doubt),
        at: doubt,
        ticks: data.confidence_range ? [1, (1 + confidenceLow) / 2, confidenceLow] : [],
        write: (share) => `${Number((100 * share).toFixed(1))}%`,
        describe: `Confidence (probability of the prediction) from 100% to ${Math.round(100 * confidenceLow)}%, over all epochs. Rings: misclassified.`,
      }),
      correctness: {
        text: "Correctness",
        isAvailable: true,
        fill: ({ label, prediction }) => read(label === prediction ? "--correct" : "--mistaken"),
        order: ({ label, prediction }) => Number(label !== prediction),
        isDiamond: ({ label, prediction }) => label !== prediction,
        ring: null,
        legend: (dots) => {
          const wrong = dots.filter(({ label, prediction }) => label !== prediction).length;
          return [page.element("p", { class: "keys" }, key(page, "disc", `correct (${(dots.length - wrong).toLocaleString("en")})`),
            key(page, "diamond", `misclassified (${wrong.toLocaleString("en")})`))];
        },
      },
    };
  };

  Object.assign((pellucid.embedding ??= {}), { dotColours });
}
