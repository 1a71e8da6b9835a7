"use strict";
/* The network in the page: a small program of layers, run in plain JavaScript on any image.

`page.runModel` is null in a page without a network (too large, unknown layers, no images). Otherwise:

    const result = await page.runModel(input, classIndex = null)

input: Float32Array of the pixels in [0, 1], channel by channel and row by row: (channels, height, width), as in
`page.modelInput`, e.g. [1, 28, 28]. A normalization that belongs to the model is part of the program.
classIndex: the class to explain; null: the predicted one.

result: {
  logits: Float32Array (class),
  probabilities: Float32Array (class), the softmax of the logits,
  prediction: index of the largest logit; null if a logit is not finite,
  target: index of the explained class; null, with `maps` null, if a logit is not finite,
  maps: {
    gradient, input_x_gradient, "lrp.epsilon": Float32Array (height × width), summed over channels,
      keyed by the names of the methods in Python, whose values they equal up to rounding (in order of display),
  },
  sums: {gradient, input_x_gradient, "lrp.epsilon"}: the sum of each map,
  certificate: {logit, pixels, bias, stabiliser, constant}: the explained logit, and the relevance of `lrp.epsilon` that
    reached the pixels, and that biases, stabilizers and constants absorbed; logit = the sum of the other four,
  milliseconds: time spent,
}

The first call decodes the weights. Calls are answered in order, one at a time; the arrays of a result are its own.
*/
