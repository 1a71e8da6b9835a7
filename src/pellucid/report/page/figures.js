/* Figures, one per epoch. data: {figures: [{name, pictures: {epoch: {uri, width, height, caption}}}], moment}. */
(() => {
  const LEAST_WIDTH = 900; // text in narrower figures would be illegible; their container scrolls instead

  const figure = (title, name, pictures, page) => {
    const images = Object.fromEntries(Object.entries(pictures).map(([epoch, { uri, width, height, caption }]) => {
      const image = page.picture(uri);
      Object.assign(image, { alt: caption, className: "figure", width, height });
      image.style.minWidth = `${Math.min(width, LEAST_WIDTH)}px`;
      return [epoch, image];
    }));
    const box = page.element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": `${title}: ${name}` });
    const caption = page.element("figcaption");
    const full = page.element("button", { type: "button", "aria-label": `Full size: ${name}` }, "Full size");
    const made = page.element("figure", {}, box, page.element("div", { class: "under" }, caption, full));
    return [made, (epoch) => {
      const shown = page.latest(images, epoch);
      box.replaceChildren(images[shown]);
      caption.textContent = pictures[shown].caption;
      full.onclick = () => page.showFull(title, pictures[shown].uri, pictures[shown].caption);
      return shown;
    }];
  };

  pellucid.kinds.figures = (root, data, page) => {
    const title = root.querySelector("h2").textContent;
    const which = root.querySelector(".which");
    const made = data.figures.map(({ name, pictures }) => figure(title, name.replaceAll("_", " "), pictures, page));
    root.querySelector(".shown").append(...made.map(([element]) => element));
    return (epoch) => {
      const shown = made.map(([, show]) => show(epoch));
      which.textContent = data.moment || page.stale(shown[0], epoch);
      which.classList.toggle("calm", Boolean(data.moment));
    };
  };
})();
