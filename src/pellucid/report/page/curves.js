/* Loss and accuracy. data: {lines: [{epoch, train_loss, …, best}]}. To be drawn as SVG. */
pellucid.kinds.curves = (root, data, page) => {
  return (epoch) => {};
};
