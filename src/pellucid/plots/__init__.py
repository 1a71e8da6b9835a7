"""Plotting functions that take arrays and return a `matplotlib.figure.Figure`; they know nothing of models.

Figures are laid out in dots; the pictures of a run have two pixels per dot. Every part is as large as its content
requires, and each image pixel covers a whole number of dots. Save figures without `bbox_inches="tight"`, at their own
dpi or a multiple.

- `image_grid`, `captioned_images`, `class_maps`: images and signed maps in a grid, placed by `_grid`, with `labels`
- `explained`: inputs next to their relevance; rows (`_explained`) of one kind each, `explained_image`,
  `explained_signal`, `explained_tokens`, `explained_values` and `explained_volume`
- `calibration`, `confusion_matrix`, `data_map`, `histogram`, `influence`, `leaderboard`, `learning_curves`,
  `out_of_distribution`, `ranking`, `robustness`, `scatter`, `slices`: the figures of those names; `summary`: a run
  in one picture
- `concepts`: what passes through channels of a layer, and the images that show what they stand for
- `flow`: shares of branches where the paths of a network meet; `layers`: statistics of its layers; `heads`: relevance
  and rollout of its attention
- `label_errors`: images with suspicious labels, and the evidence
- `tokens`: a text colored by relevance, as HTML and for the terminal
- `encoding`: figures as files; `colours`: the palettes
- `_canvas`: the figure in dots; `_outline`: outlines of digits, over maps; `_text`: measures, shortens and wraps text
"""
