/* The list of images of the section "explain", with its filters.

`pellucid.explainStrip(root, images, page, choose)` fills it; `choose` is called with the image that the reader selects.
It returns {first, select(image), add(image), paint()}. */
{
  const FEW = 9; // below this number of images, filters would be in the way

  const isWrong = ({ label, prediction }) => label !== null && prediction !== null && label !== prediction;

  /* Return the images in reading order: the most confidently misclassified first, then the correct ones. */
  const ordered = (images) => {
    if (images.every((image) => image.label === null)) return images;
    const rank = (image) => (isWrong(image) ? 1 + (image.confidence ?? 0) : 0);
    return images.map((image, place) => [image, place])
      .sort(([one, first], [other, second]) => rank(other) - rank(one) || first - second).map(([image]) => image);
  };

  pellucid.explainStrip = (root, images, page, choose) => {
    const find = (selector) => root.querySelector(selector);
    const [scroll, filters] = [find(".strip .scroll"), find(".filters")];
    const name = (label) => page.classes[label] ?? `class ${label}`;
    const items = new Map(); // by image, its label element
    let listed = ordered(images);
    let current = null;

    const painter = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) paint(target);
      }
    }, { rootMargin: "200px" });
    const paint = (made) => {
      if (made.image === null) return;
      painter.unobserve(made);
      const { size, channels, bytes } = made.image;
      page.paintImage(made.querySelector("canvas"), size, channels, bytes);
      made.image = null; // painted
    };

    const item = (image) => {
      const taken = image.prediction === null ? null : name(image.prediction);
      const shown = image.label === null ? image.title : name(image.label);
      const spoken = [image.label === null ? "" : `shows ${shown}`,
        taken !== null && (image.label === null || isWrong(image)) ? `predicted as ${taken}` : ""].filter(Boolean);
      const whole = [image.title, ...spoken].join(", ");
      const radio = page.element("input", { type: "radio", name: "explain-image", value: image.index, "aria-label": whole });
      radio.addEventListener("change", () => choose(image));
      const text = isWrong(image) ? page.element("span", { class: "wrong" }, `${shown} → ${taken}`) : page.element("span", {}, shown);
      const made = page.element("label", { title: whole },
        radio, page.element("canvas", { class: "pixels", "aria-hidden": "true" }), text);
      made.image = image;
      items.set(image, made);
      painter.observe(made);
      return made;
    };

    const visible = () => {
      const outcome = filters.querySelector(".outcome :checked").value;
      const [truth, taken] = [".by-truth", ".by-prediction"].map((selector) => filters.querySelector(selector).value);
      return listed.filter(({ label, prediction }) => (outcome === "all" || (outcome === "wrong") === (label !== prediction && prediction !== null))
        && (truth === "" || String(label) === truth) && (taken === "" || String(prediction) === taken));
    };

    const tellPosition = () => {
      const shown = visible();
      const place = shown.indexOf(current);
      find(".walk .previous").disabled = place === 0 || !shown.length;
      find(".walk .next").disabled = place === shown.length - 1 || !shown.length;
      find(".walk .position").textContent = place < 0 ? "" : `${place + 1} of ${shown.length}`;
    };
    const filter = () => {
      const shown = new Set(visible());
      for (const [image, made] of items) made.hidden = !shown.has(image);
      find(".strip .none").textContent = shown.size ? "" : "No stored image matches.";
      tellPosition();
    };
    const step = (by) => {
      const shown = visible();
      const place = shown.indexOf(current);
      const next = shown[place < 0 ? 0 : place + by];
      if (next) choose(next);
    };

    const fillClasses = () => {
      for (const [selector, key] of [[".by-truth", "label"], [".by-prediction", "prediction"]]) {
        const present = [...new Set(images.map((image) => image[key]))].sort((a, b) => a - b);
        filters.querySelector(selector).append(...present.map((label) => page.element("option", { value: label }, name(label))));
      }
      const counts = { all: images.length, wrong: images.filter(isWrong).length };
      for (const [value, count] of Object.entries({ ...counts, right: counts.all - counts.wrong })) {
        filters.querySelector(`[value="${value}"] + span`).append(` (${count.toLocaleString("en")})`);
      }
    };

    const isLabeled = images.some((image) => image.label !== null);
    find(".finding").hidden = images.length < FEW || !isLabeled;
    // on a phone, the maps matter more
    find(".finding").open = matchMedia("(min-width: 40rem)").matches;
    find(".walk").hidden = images.length < 2;
    find(".strip").hidden = images.length < 2;
    scroll.append(...listed.map(item));
    if (isLabeled) fillClasses();
    filters.addEventListener("change", (event) => { if (!event.target.matches(".by-index")) filter(); });
    find(".walk .previous").addEventListener("click", () => step(-1));
    find(".walk .next").addEventListener("click", () => step(1));

    return {
      first: listed[0],
      /* Paint all images, also those out of sight. */
      paint: () => { for (const made of items.values()) paint(made); },
      /* Add an image of another section in front of the list. */
      add: (image) => {
        if (items.has(image)) return;
        listed = [image, ...listed];
        scroll.prepend(item(image));
        filter();
      },
      select: (image) => {
        current = image;
        const made = items.get(image);
        made.querySelector("input").checked = true;
        // scrolls the list, never the page
        const [top, left] = [made.offsetTop - scroll.offsetTop, made.offsetLeft - scroll.offsetLeft];
        if (top < scroll.scrollTop || top + made.offsetHeight > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top - 4;
        if (left < scroll.scrollLeft || left + made.offsetWidth > scroll.scrollLeft + scroll.clientWidth) scroll.scrollLeft = left - 4;
        tellPosition();
      },
    };
  };
}
