/* Searches of the embedding, such as: 4, true 4 predicted 9, 4 → 9, "a class", index 12, wrong, loss > 2.

A dot is {index, label, prediction, confidence, loss}; labels and predictions are class numbers.
*/
{
  const MOST_WORDS = 8; // words of a class name that a search may have in a row
  const fold = (text) => text.toLocaleLowerCase("en").trim();
  const isBoundary = (text, end) => end >= text.length || !/[\p{L}\p{N}_]/u.test(text[end]) || !/[\p{L}\p{N}_]/u.test(text[end - 1]);

  /* Read the class at the start of a text: a quoted name, the longest name that it begins with, or part of names.
     Returns {classes, length}, or null. */
  const readClass = (text, names) => {
    const quoted = /^["“”]([^"“”]*)["“”]/.exec(text);
    const folded = names.map(fold);
    const numbers = (isMatch) => folded.map((_, number) => number).filter((number) => isMatch(folded[number]));
    if (quoted) {
      const classes = numbers((name) => name === fold(quoted[1]));
      return classes.length ? { classes, length: quoted[0].length } : null;
    }
    const lower = text.toLocaleLowerCase("en");
    const starts = folded.filter((name) => name && lower.startsWith(name) && isBoundary(lower, name.length));
    const whole = Math.max(0, ...starts.map((name) => name.length));
    // part of a name: as many words as occur together in any of them
    const words = [...lower.matchAll(/[^\s,"“”→]+/g)].slice(0, MOST_WORDS);
    const part = words.map(({ 0: word, index }) => lower.slice(0, index + word.length)).reverse()
      .find((one) => folded.some((name) => name.includes(one)));
    if (whole && whole >= (part?.length ?? 0)) return { classes: numbers((name) => name === lower.slice(0, whole)), length: whole };
    if (part && !/^\d+$/.test(part)) return { classes: numbers((name) => name.includes(part)), length: part.length };
    // the number of a class without a name, which is shown as "class 7"
    const number = /^\d+(?![\p{L}\p{N}.])/u.exec(lower)?.[0];
    const classes = number ? numbers((name) => name === `class ${Number(number)}`) : [];
    return classes.length ? { classes, length: number.length } : null;
  };

  const COMPARISONS = {
    "<": (a, b) => a < b, ">": (a, b) => a > b, "≤": (a, b) => a <= b, "≥": (a, b) => a >= b,
    "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => Math.abs(a - b) < 5e-4,
  };

  /* The terms by their beginnings; each returns {words, test, kind, length}, or null if the text is something else. */
  const TERMS = [
    [/^(?:index|image|#)\s*(\d+)(?:\s*(?:-|–|to)\s*(\d+))?(?![\p{L}\p{N}])/iu, ([, from, to = from]) => ({
      words: from === to ? `index ${from}` : `index ${from} to ${to}`, kind: "index",
      test: ({ index }) => index >= Number(from) && index <= Number(to) })],
    [/^(?:wrong|errors?|misclassified|incorrect)(?![\p{L}\p{N}])/iu, () => ({
      words: "misclassified", test: ({ label, prediction }) => label !== prediction })],
    [/^(?:correct|right)(?![\p{L}\p{N}])/iu, () => ({
      words: "correct", test: ({ label, prediction }) => label === prediction })],
    [/^(loss|confidence)\s*(<=|>=|<|>|≤|≥|=)\s*(\d*\.?\d+(?:e[+-]?\d+)?)\s*(%?)/iu, ([, field, sign, digits, unit]) => {
      const value = Number(digits) / (unit ? 100 : 1);
      const name = field.toLowerCase();
      // the comparison with NaN, an unknown value, is false
      return { words: `${name} ${sign} ${digits}${unit}`, test: (dot) => COMPARISONS[sign](dot[name], value) };
    }],
  ];

  const readWith = (text) => {
    for (const [pattern, make] of TERMS) {
      const match = pattern.exec(text);
      if (match) return { ...make(match), length: match[0].length };
    }
    return null;
  };

  const listed = (classes, names) =>
    (classes.length > 3 ? `${classes.length.toLocaleString("en")} classes` : classes.map((number) => names[number]).join(" or "));

  /* Read "true CLASS" or "predicted CLASS". */
  const readField = (text, names) => {
    for (const [field, words, pattern] of [["label", "true class", /^(?:true(?:\s+class)?|truth|label)(?![\p{L}\p{N}])[\s:=]*/iu],
      ["prediction", "predicted", /^(?:predicted(?:\s+as)?|prediction|pred)(?![\p{L}\p{N}])[\s:=]*/iu]]) {
      const start = pattern.exec(text);
      const found = start && readClass(text.slice(start[0].length), names);
      if (found) {
        return { words: `${words} ${listed(found.classes, names)}`, kind: field, length: start[0].length + found.length,
          test: (dot) => found.classes.includes(dot[field]) };
      }
    }
    return null;
  };

  /* Read a class, or two with an arrow: the true class, then the prediction. */
  const readBare = (text, names) => {
    const first = readClass(text, names);
    if (!first) return null;
    const arrow = /^\s*(?:→|->|=>)\s*/.exec(text.slice(first.length));
    const second = arrow && readClass(text.slice(first.length + arrow[0].length), names);
    if (!second) {
      return { words: listed(first.classes, names), length: first.length,
        test: ({ label, prediction }) => first.classes.includes(label) || first.classes.includes(prediction) };
    }
    return { words: `true class ${listed(first.classes, names)} predicted as ${listed(second.classes, names)}`,
      length: first.length + arrow[0].length + second.length,
      test: ({ label, prediction }) => first.classes.includes(label) && second.classes.includes(prediction) };
  };

  const readIndex = (text) => {
    const number = /^\d+(?![\p{L}\p{N}.])/u.exec(text)?.[0];
    return number && { words: `index ${number}`, kind: "index", length: number.length, test: ({ index }) => index === Number(number) };
  };

  /* Return {words, test, index} for a search, {problem} for one that cannot be read, or null for an empty one.

     Terms of the same kind (true class, prediction, index) are alternatives; different terms must all hold. */
  const readQuery = (text, names) => {
    const terms = [];
    let rest = text.trim();
    while (rest) {
      const term = readWith(rest) ?? readField(rest, names) ?? readBare(rest, names) ?? readIndex(rest);
      if (!term) return { problem: `No class, index or other search term begins with “${/^\S+/.exec(rest)[0]}”. See “Syntax” for examples.` };
      terms.push({ ...term, text: rest.slice(0, term.length) });
      rest = rest.slice(term.length).replace(/^(?:\s|,|;|&|and(?![\p{L}\p{N}])|or(?![\p{L}\p{N}]))+/iu, "");
    }
    if (!terms.length) return null;
    const groups = new Map();
    terms.forEach((term, number) => {
      const key = term.kind ?? number;
      groups.set(key, [...(groups.get(key) ?? []), term]);
    });
    const tests = [...groups.values()].map((group) => (dot) => group.some(({ test }) => test(dot)));
    return {
      words: [...groups.values()].map((group) => group.map(({ words }) => words).join(" or ")).join(", "),
      test: (dot) => tests.every((test) => test(dot)),
      // a single image is looked for, so that the page can say that it is not in the plane
      index: terms.length === 1 && /^index \d+$/.test(terms[0].words) ? Number(terms[0].words.slice(6)) : null,
    };
  };

  /* Write a class name so that a search reads it as one, even if it has spaces. */
  const quoted = (text) => (/^[\p{L}\p{N}_-]+$/u.test(text) ? text : `"${text}"`);

  /* Examples of searches with their meanings, for two class names. */
  const syntax = (first, second) => [
    [first, "a class, as the true class or the prediction; part of a name is enough"],
    [`true ${first} predicted ${second}`, `the true class and the prediction; also ${first} → ${second}`],
    [`${first} ${second}`, "one class predicted as the other, in either direction"],
    ["index 1234", "an index in the test set; also index 10-20"],
    ["wrong", "misclassified images; also correct"],
    ["loss > 2", "also confidence < 60%"],
  ];

  Object.assign((pellucid.embedding ??= {}), { quoted, readQuery, syntax });
}
