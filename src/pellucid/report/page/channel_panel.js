/* A dialog about one channel: what it stands for and, if it was opened from an explained image, its part in that. */
{
  const RANKINGS = { relevance: "Most relevant", activation: "Most active" };
  let [dialog, shown] = [null, null];

  const name = (label) => pellucid.classes[label] ?? `class ${label}`;
  const find = (selector) => dialog.querySelector(selector);

  const build = () => {
    const { element } = pellucid;
    const radio = ([value, text]) => element("label", {},
      element("input", { type: "radio", name: "channel-ranking", value, ...(value === "relevance" ? { checked: "" } : {}) }), ` ${text}`);
    dialog = element("dialog", { class: "channel-panel", "aria-labelledby": "channel-title" },
      element("div", { class: "bar" }, element("h2", { id: "channel-title" }), element("button", { type: "button" }, "Close")),
      element("p", { class: "use" }),
      element("div", { class: "of-image" },
        element("figure", {}, element("div", { class: "frame" }, element("canvas", { class: "map pixels", role: "img" })), element("figcaption", {}, "through this channel")),
        element("figure", {}, element("canvas", { class: "image pixels", role: "img" }), element("figcaption", {})),
        element("p", { class: "part" })),
      element("fieldset", {}, element("legend", {}, "Test images"), ...Object.entries(RANKINGS).map(radio)),
      element("ol", { class: "references" }),
      element("h3", {}, "Mean relevance by predicted class"),
      element("ul", { class: "by-class" }),
      element("p", { class: "channel-note" }));
    document.body.append(dialog);
    find("button").addEventListener("click", () => dialog.close());
    find("fieldset").addEventListener("change", tellReferences);
    // a link leads to an image, or to the same one that is shown already
    dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.closest("a")) dialog.close(); });
    dialog.addEventListener("close", () => { // the event comes later than the call
      if (dialog.open || !shown) return;
      const { closed } = shown;
      shown = null;
      // a link has changed the address already
      if (pellucid.parsePlace(location.hash).channel !== null) closed();
    });
    addEventListener("hashchange", () => { if (pellucid.parsePlace(location.hash).channel === null) pellucid.closeChannel(); });
    pellucid.onScheme(() => { if (shown) tellImage(); });
  };

  const reference = (one, layer) => {
    const { element, opener, signed } = pellucid;
    const crop = layer.pictures.canvas(one.crop, { role: "img", "aria-label": `Part of test image ${one.index}: ${name(one.label)}` });
    const wrong = one.label === one.prediction ? [] : [element("span", { class: "wrong" }, `→ ${name(one.prediction)}`)];
    // other images would not be found
    const picture = one.linked || pellucid.served ? opener(one.index, { label: one.prediction }, crop) : crop;
    return element("li", { title: `Test image ${one.index}` }, picture, element("span", {}, name(one.label)), ...wrong,
      element("span", { class: "pale" }, signed(one.value)));
  };

  const tellReferences = () => {
    const { layer, channel } = shown;
    const ranking = find("fieldset :checked").value;
    const found = layer.rankings[ranking][layer.row(channel)] ?? [];
    const nothing = layer.row(channel) === null ? "The reference images of this channel are not stored." : `This channel is never ${ranking === "relevance" ? "evidence for a predicted class" : "active"}.`;
    find(".references").replaceChildren(...found.map((one) => reference(one, layer)),
      ...(found.length ? [] : [pellucid.element("li", { class: "none" }, nothing)]));
  };

  const tellClasses = () => {
    const means = shown.layer.means[shown.layer.row(shown.channel)] ?? [];
    const largest = Math.max(...means.map(([, mean]) => Math.abs(mean)), 0);
    find("h3").hidden = !means.length;
    find(".by-class").replaceChildren(...means.map(([label, mean]) => pellucid.element("li", {},
      pellucid.element("span", { class: "of" }, name(label)), pellucid.channelBar(mean, largest), pellucid.element("span", { class: "pale" }, pellucid.signed(mean)))));
  };

  const tellImage = async () => {
    const own = shown;
    find(".of-image").hidden = !own.origin;
    if (!own.origin) return;
    const { image, label, item, all } = own.origin;
    const logit = all.total === null ? "" : `, whose logit is ${pellucid.digits(all.total)}`;
    find(".of-image .part").textContent = `This channel contributes ${pellucid.channelAmount(item, all)} to ${name(label)}${logit}.`;
    const canvas = find("canvas.map");
    pellucid.paintImage(find("canvas.image"), image.size, image.channels, image.bytes);
    find("canvas.image").setAttribute("aria-label", image.title);
    find(".of-image figure:last-of-type figcaption").textContent = image.title.toLowerCase();
    canvas.setAttribute("aria-label", `Relevance for ${name(label)} that passes through channel ${own.channel}`);
    const map = await item.map();
    if (shown !== own) return;
    pellucid.paintSigned(canvas, map.size, map.values, map.unit / all.limit * pellucid.STEPS);
    find(".frame .outline")?.remove();
    const outline = pellucid.outline(image.size, image.channels, image.bytes);
    if (outline) canvas.after(outline);
    dialog.dataset.ready = "true";
  };

  /* Open the dialog. origin: {image, label, item, all} of an explained image, or null; `closed` is called at the end. */
  pellucid.showChannel = (layer, channel, origin, closed) => {
    if (!dialog) build();
    shown = { layer, channel, origin, closed };
    delete dialog.dataset.ready;
    find("h2").textContent = `Channel ${channel} of layer ${layer.name}`;
    const use = pellucid.channelUse(layer, channel);
    find(".use").textContent = layer.row(channel) === null ? "" : use.startsWith("for ") ? `Evidence ${use}.` : `${use.charAt(0).toUpperCase()}${use.slice(1)}.`;
    find(`[value=${pellucid.channelImages(layer, channel).ranking}]`).checked = true;
    tellReferences();
    tellClasses();
    tellImage();
    find(".channel-note").textContent = `Relevance by ${layer.method} over ${layer.images.toLocaleString("en")} test images, for their predicted classes. Crops show the receptive field of the strongest position. ${layer.note}`.trim();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };

  pellucid.closeChannel = () => { if (dialog?.open) dialog.close(); };
}
