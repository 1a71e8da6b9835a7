/* One picture per epoch. data: {pictures: {epoch: {uri, caption}}}. */
pellucid.kinds.figures = (root, data, page) => {
  const image = root.querySelector("img");
  const caption = root.querySelector("figcaption");
  return (epoch) => {
    const { uri, caption: text } = data.pictures[page.latest(data.pictures, epoch)];
    image.src = uri;
    image.alt = text;
    caption.textContent = text;
  };
};
