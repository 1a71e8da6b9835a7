"use strict";
/* Search in the guides and names of the site: guides first, whatever the spelling of a name ("grad cam", "GradCAM"). */
const siteSearch = (() => {
  const MOST_GUIDES = 8;
  const MOST_NAMES = 20;
  const SNIPPET = 180; // characters

  /* Split a text into lowercase words, at separators and at the humps of CamelCase. */
  const wordsOf = (text) => text.replace(/([\p{Ll}\p{N}])(\p{Lu})/gu, "$1 $2").toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);

  const prepare = (text) => {
    const words = wordsOf(text);
    return { words, joined: words.join("") };
  };

  /* Rate a name or title from 0 (no match) to 100 (equal but for case and separators). */
  const rate = (query, { words, joined }) => {
    if (!query.joined || !joined) return 0;
    if (joined === query.joined) return 100;
    if (joined.startsWith(query.joined)) return 70;
    if (words.some((_, start) => words.slice(start).join("").startsWith(query.joined))) return 60;
    if (query.words.every((word) => words.includes(word))) return 45;
    if (query.words.every((word) => words.some((one) => one.startsWith(word)))) return 35;
    return query.joined.length >= 4 && joined.includes(query.joined) ? 15 : 0;
  };

  /* Count how often the query occurs in a text of words between spaces, as words or as one word; in full counts twice. */
  const occurrences = (query, text) => {
    let count = 0;
    for (const form of new Set([query.words.join(" "), query.joined])) {
      for (const end of ["", " "]) count += text.split(` ${form}${end}`).length - 1;
    }
    return count;
  };

  /* Rate a section of a guide by its heading and text. */
  const rateSection = (query, section) => {
    const count = occurrences(query, section.plain);
    const hasAll = count > 0 || query.words.every((word) => section.plain.includes(` ${word}`));
    return 3 * rate(query, section.prepared) + (count ? 10 * Math.log2(1 + count) : hasAll ? 4 : 0);
  };

  const readIndex = ({ guides, names }) => ({
    guides: guides.map((guide) => ({
      ...guide,
      prepared: prepare(guide.title),
      named: guide.names.map(prepare),
      grouped: prepare(guide.group),
      sections: guide.sections.map(([anchor, heading, text]) => ({ anchor, heading, text, prepared: prepare(heading), plain: ` ${wordsOf(text).join(" ")} ` })),
    })),
    names: names.map((one) => ({ ...one, last: prepare(one.name.split(".").pop()), whole: prepare(one.name.replace(/^pellucid\./, "")), plain: ` ${wordsOf(one.line).join(" ")}` })),
  });

  /* Return the guides and names that match, the best first. */
  const find = (index, text) => {
    const query = prepare(text);
    if (!query.joined) return { guides: [], names: [] };
    const byScore = (one, other) => other.score - one.score;
    const guides = index.guides.map((guide) => {
      const rated = guide.sections.map((section) => ({ section, score: rateSection(query, section) })).sort(byScore);
      const name = Math.max(0, ...guide.named.map((one) => rate(query, one)));
      const own = Math.max(rate(query, guide.prepared), 1.1 * name, 0.5 * rate(query, guide.grouped));
      // many short mentions count less than one section about it
      const body = rated.reduce((sum, { score }, place) => sum + score / (1 + place), 0);
      // a page about the query is shown from its beginning
      const section = own >= 35 || !(rated[0]?.score > 0) ? null : rated[0].section;
      return { guide, section, score: guide.weight * (10 * own + body) };
    }).filter(({ score }) => score > 0).sort(byScore);
    const depth = ({ name }) => name.split(".").length;
    const names = index.names.map((one) => {
      const best = Math.max(rate(query, one.last), 0.9 * rate(query, one.whole));
      const isMentioned = query.words.every((word) => one.plain.includes(` ${word}`)) || one.plain.includes(` ${query.joined}`);
      return { one, score: best || (isMentioned ? 10 : 0) };
    }).filter(({ score }) => score > 0)
      .sort((one, other) => byScore(one, other) || depth(one.one) - depth(other.one) || one.one.name.localeCompare(other.one.name));
    return { guides, names: names.map(({ one }) => one) };
  };

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };

  /* Return the part of a text around the first occurrence of the query, with the occurrence marked. */
  const snippet = (text, query) => {
    const pattern = query.words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("[^\\p{L}\\p{N}]*");
    const match = new RegExp(pattern, "iu").exec(text) ?? new RegExp(query.words[0], "iu").exec(text);
    if (!match) return [text.slice(0, SNIPPET) + (text.length > SNIPPET ? "…" : "")];
    const start = match.index > 60 ? text.indexOf(" ", match.index - 60) + 1 || match.index : 0;
    const first = Math.min(start, match.index);
    const end = match.index + match[0].length;
    return [(first ? "…" : "") + text.slice(first, match.index), element("mark", {}, match[0]),
      text.slice(end, first + SNIPPET) + (text.length > first + SNIPPET ? "…" : "")];
  };

  const guideItem = (root, query, { guide, section }) => {
    const isTop = !section || section === guide.sections[0];
    const link = element("a", { href: root + guide.url + (isTop || !section.anchor ? "" : `#${section.anchor}`) },
      guide.title, ...(isTop ? [] : [element("span", { class: "of" }, ` › ${section.heading}`)]));
    const shown = section ?? guide.sections[0];
    return element("li", {}, element("span", { class: "group" }, guide.group), link,
      ...(shown?.text ? [element("p", {}, ...snippet(shown.text, query))] : []));
  };

  const nameItem = (root, one) => element("li", {},
    element("a", { href: root + one.url }, element("code", {}, one.name)), element("span", { class: "line" }, ` ${one.line}`));

  /* Create a list that shows `most` items, and the others on request. */
  const list = (title, items, most, make) => {
    if (!items.length) return [];
    const shown = element("ul", { class: "results" }, ...items.slice(0, most).map(make));
    const parts = [element("h2", {}, title), shown];
    if (items.length > most) {
      const more = element("button", { type: "button" }, `Show ${items.length - most} more`);
      more.addEventListener("click", () => {
        const added = items.slice(most).map(make);
        shown.append(...added);
        more.remove();
        added[0].querySelector("a").focus();
      });
      parts.push(more);
    }
    return parts;
  };

  /* Create the page of results. */
  const results = (index, text, root) => {
    const query = prepare(text);
    const { guides, names } = find(index, text);
    const count = guides.length + names.length;
    const status = count ? `${count} result${count === 1 ? "" : "s"}` : "No results";
    return [
      element("h1", {}, `Search: ${text}`),
      element("p", { role: "status" }, `${status}.${count ? "" : " Try fewer or shorter words."}`),
      ...list("Guides", guides, MOST_GUIDES, (one) => guideItem(root, query, one)),
      ...list("Names in the API", names, MOST_NAMES, (one) => nameItem(root, one)),
    ];
  };

  /* Load the index; as a script, since a page opened from disk cannot fetch. */
  const load = (root) => new Promise((resolve, reject) => {
    const script = element("script", { src: `${root}search.js` });
    script.onload = () => resolve(readIndex(window.siteIndex));
    script.onerror = () => reject(new Error("The search index search.js is missing; build the site again."));
    document.head.append(script);
  });

  const start = (root) => {
    const box = document.querySelector(".pdoc input[type=search]");
    const page = document.querySelector("main.pdoc");
    const found = element("main", { class: "pdoc search-results" });
    let loading = null;
    let shown = "";

    const term = () => new URL(location).searchParams.get("search")?.trim() ?? "";

    const update = async () => {
      const text = term();
      if (!text) {
        if (found.isConnected) found.replaceWith(page);
        shown = "";
        return;
      }
      if (!found.isConnected) page.replaceWith(found);
      try {
        loading ??= load(root);
        const index = await loading;
        if (text !== term() || text === shown) return;
        shown = text;
        found.replaceChildren(...results(index, text, root));
      } catch (error) {
        found.replaceChildren(element("p", { role: "alert" }, error.message));
      }
      scrollTo({ top: 0, behavior: "instant" });
    };

    const write = () => {
      const url = new URL(location);
      url.hash = "";
      if (box.value.trim()) url.searchParams.set("search", box.value);
      else url.searchParams.delete("search");
      history.replaceState("", "", url);
      update();
    };

    const links = () => [...found.querySelectorAll(".results a")];
    const move = (step) => {
      const all = links();
      const next = all.indexOf(document.activeElement) + step;
      if (next < 0) box.focus();
      else all[Math.min(next, all.length - 1)]?.focus();
    };

    box.addEventListener("input", write);
    box.addEventListener("focus", () => { loading ??= load(root); }, { once: true });
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter") links()[0]?.click();
      if (event.key === "Escape") { box.value = ""; write(); }
      if (event.key === "ArrowDown" && found.isConnected) { event.preventDefault(); move(1); }
    });
    found.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    });
    document.addEventListener("keydown", (event) => {
      const isTyping = event.target.closest?.("input, textarea, select");
      if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      box.focus();
    });
    // a link to a heading of this page leaves the results
    document.querySelector("nav.pdoc").addEventListener("click", (event) => {
      if (!event.target.hash || !found.isConnected) return;
      box.value = "";
      write();
    });
    addEventListener("popstate", () => { box.value = term(); update(); });
    // wide code, signatures and tables scroll by keyboard, too
    for (const one of page.querySelectorAll("pre, .attr, table, math[display=block]")) {
      if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
    }
    box.value = term();
    update();
  };

  return { find, readIndex, start };
})();
