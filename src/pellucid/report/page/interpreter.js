"use strict";
/* The network in the page: a small program of layers, run in plain JavaScript on any image.

`page.runModel` is null or undefined in a page without a network (too large, unknown layers, no images). Otherwise:

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
{
  /* Pointwise functions: (options) => [x => value, x => derivative]. Names and options as in pellucid.engine.programs. */
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

  /* The error function, by its series Σ 2ⁿ x²ⁿ⁺¹ / (1 · 3 · … · (2n + 1)), whose terms are all positive. */
  const erf = (x) => {
    const size = Math.abs(x);
    if (size > 5.9) return Math.sign(x);
    let [term, sum] = [size, size];
    for (let n = 1; term > 1e-16 * sum; n += 1) {
      term *= 2 * size * size / (2 * n + 1);
      sum += term;
    }
    return Math.sign(x) * sum * 2 / Math.sqrt(Math.PI) * Math.exp(-size * size);
  };
  const normal = (x) => 0.5 * (1 + erf(x / Math.SQRT2)); // Φ(x)
  const density = (x) => Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
  const inner = (x) => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3); // of the GELU by tanh
  const innerSlope = (x) => Math.sqrt(2 / Math.PI) * (1 + 0.134145 * x * x);

  const FUNCTIONS = {
    relu: ({ slope }) => [(x) => (x > 0 ? x : slope * x), (x) => (x > 0 ? 1 : slope)],
    clamp: ({ low, high, is_inclusive: isInclusive }) => {
      const [lower, upper] = [low ?? -Infinity, high ?? Infinity];
      const inside = isInclusive ? (x) => x >= lower && x <= upper : (x) => x > lower && x < upper;
      return [(x) => Math.min(Math.max(x, lower), upper), (x) => (inside(x) ? 1 : 0)];
    },
    elu: ({ alpha, scale, rate }) => [
      (x) => (x > 0 ? scale * x : scale * alpha * Math.expm1(rate * x)),
      (x) => (x > 0 ? scale : scale * alpha * rate * Math.exp(rate * x))],
    gelu: () => [(x) => x * normal(x), (x) => normal(x) + x * density(x)],
    gelu_tanh: () => [
      (x) => 0.5 * x * (1 + Math.tanh(inner(x))),
      (x) => 0.5 * (1 + Math.tanh(inner(x))) + 0.5 * x * (1 - Math.tanh(inner(x)) ** 2) * innerSlope(x)],
    swish: ({ beta }) => [
      (x) => x * sigmoid(beta * x),
      (x) => sigmoid(beta * x) * (1 + beta * x * sigmoid(-beta * x))],
    mish: () => [
      (x) => x * Math.tanh(softplus(x)),
      (x) => Math.tanh(softplus(x)) + x * (1 - Math.tanh(softplus(x)) ** 2) * sigmoid(x)],
    softplus: ({ beta }) => [(x) => softplus(beta * x) / beta, (x) => sigmoid(beta * x)],
    sigmoid: () => [sigmoid, (x) => sigmoid(x) * sigmoid(-x)],
    tanh: () => [Math.tanh, (x) => 1 - Math.tanh(x) ** 2],
    hardswish: () => [
      (x) => x * Math.min(Math.max(x / 6 + 0.5, 0), 1),
      (x) => (x <= -3 ? 0 : x < 3 ? x / 3 + 0.5 : 1)],
    hardsigmoid: () => [(x) => Math.min(Math.max(x / 6 + 0.5, 0), 1), (x) => (x > -3 && x < 3 ? 1 / 6 : 0)],
    softsign: () => [(x) => x / (1 + Math.abs(x)), (x) => (1 + Math.abs(x)) ** -2],
    absolute: () => [Math.abs, Math.sign],
    square: () => [(x) => x * x, (x) => 2 * x],
  };

  const product = (shape) => shape.reduce((all, size) => all * size, 1);

  /* Σ a[i + n] b[j + n] for n < count, in four partial sums that the processor can compute side by side. */
  const dot = (a, i, b, j, count) => {
    let [first, second, third, fourth, n] = [0, 0, 0, 0, 0];
    for (; n + 3 < count; n += 4) {
      first += a[i + n] * b[j + n];
      second += a[i + n + 1] * b[j + n + 1];
      third += a[i + n + 2] * b[j + n + 2];
      fourth += a[i + n + 3] * b[j + n + 3];
    }
    for (; n < count; n += 1) first += a[i + n] * b[j + n];
    return first + second + third + fourth;
  };

  /* The layers: (step, inputs, output, array) => {forward(), transpose(sent, into)}. inputs and output: {values, shape}.
     forward fills output.values; transpose adds the transposed map of `sent` to the arrays `into`, one for each input
     (null for a constant). Gradients and relevance are sent back by the same code. */

  /* A convolution is a product of its kernel and the patches of the image (im2col). */
  const convolution = (step, [input], output, array) => {
    const [weight, bias] = [array(step.weight), array(step.bias)];
    const [channels, height, width] = input.shape;
    const [outputs, rows, columns] = output.shape;
    const { groups } = step;
    const [each, filters, places] = [channels / groups, outputs / groups, rows * columns];
    const size = each * product(step.kernel);
    const sources = new Int32Array(places * size).fill(-1); // the pixel at each place of a patch; −1 for padding
    let at = 0;
    for (let row = 0; row < rows; row += 1) for (let column = 0; column < columns; column += 1) {
      for (let channel = 0; channel < each; channel += 1) {
        for (let down = 0; down < step.kernel[0]; down += 1) for (let right = 0; right < step.kernel[1]; right += 1, at += 1) {
          const y = row * step.stride[0] - step.padding[0] + down * step.dilation[0];
          const x = column * step.stride[1] - step.padding[1] + right * step.dilation[1];
          if (y >= 0 && y < height && x >= 0 && x < width) sources[at] = (channel * height + y) * width + x;
        }
      }
    }
    const patches = new Float64Array(places * size);
    const sum = new Float64Array(size);
    const forward = () => {
      for (let group = 0; group < groups; group += 1) {
        const start = group * each * height * width;
        for (let n = 0; n < patches.length; n += 1) patches[n] = sources[n] < 0 ? 0 : input.values[start + sources[n]];
        for (let filter = group * filters; filter < (group + 1) * filters; filter += 1) {
          const shift = bias ? bias[filter] : 0;
          for (let place = 0; place < places; place += 1) {
            output.values[filter * places + place] = shift + dot(weight, filter * size, patches, place * size, size);
          }
        }
      }
    };
    const transpose = (sent, [into]) => {
      for (let group = 0; group < groups; group += 1) {
        const start = group * each * height * width;
        for (let place = 0; place < places; place += 1) {
          sum.fill(0);
          let isEmpty = true;
          for (let filter = group * filters; filter < (group + 1) * filters; filter += 1) {
            const value = sent[filter * places + place];
            if (value === 0) continue; // about half of them, behind a ReLU
            isEmpty = false;
            for (let n = 0, w = filter * size; n < size; n += 1, w += 1) sum[n] += value * weight[w];
          }
          if (isEmpty) continue;
          for (let n = 0, s = place * size; n < size; n += 1, s += 1) if (sources[s] >= 0) into[start + sources[s]] += sum[n];
        }
      }
    };
    return { forward, transpose, bias, each: places };
  };

  const dense = (step, [input], output, array) => {
    const [weight, bias] = [array(step.weight), array(step.bias)];
    const [count, size] = [output.values.length, input.values.length];
    return {
      forward: () => {
        for (let unit = 0; unit < count; unit += 1) {
          output.values[unit] = (bias ? bias[unit] : 0) + dot(weight, unit * size, input.values, 0, size);
        }
      },
      transpose: (sent, [into]) => {
        for (let unit = 0; unit < count; unit += 1) {
          const value = sent[unit];
          if (value !== 0) for (let n = 0, w = unit * size; n < size; n += 1, w += 1) into[n] += value * weight[w];
        }
      },
      bias,
      each: 1,
    };
  };

  /* Entry i of n numbers applies to the i-th n-th part of a value. */
  const part = (numbers, count) => {
    const each = numbers ? count / numbers.length : 1;
    return numbers ? (n) => numbers[Math.floor(n / each)] : () => 0;
  };

  const scale = (step, [input], output, array) => {
    const [weight, bias] = [array(step.weight), array(step.bias)];
    const count = output.values.length;
    const [factor, shift] = [part(weight, count), part(bias, count)];
    return {
      forward: () => { for (let n = 0; n < count; n += 1) output.values[n] = input.values[n] * factor(n) + shift(n); },
      transpose: (sent, [into]) => { for (let n = 0; n < count; n += 1) into[n] += sent[n] * factor(n); },
      bias,
      each: bias ? count / bias.length : 1,
    };
  };

  /* Call `visit(output, input, weight)` for every input of every window. */
  const throughWindows = (step, [channels, height, width], visit) => {
    let output = 0;
    for (let channel = 0; channel < channels; channel += 1) {
      for (let row = 0; row < step.rows.length; row += 1) for (let column = 0; column < step.columns.length; column += 1, output += 1) {
        for (let down = 0; down < step.rows[row].length; down += 1) {
          const start = (channel * height + step.rows[row][down]) * width;
          const weight = step.row_weights ? step.row_weights[row][down] : 1;
          for (let right = 0; right < step.columns[column].length; right += 1) {
            visit(output, start + step.columns[column][right], step.row_weights ? weight * step.column_weights[column][right] : 1);
          }
        }
      }
    }
  };

  const average = (step, [input], output) => ({
    forward: () => {
      output.values.fill(0);
      throughWindows(step, input.shape, (to, from, weight) => { output.values[to] += weight * input.values[from]; });
    },
    transpose: (sent, [into]) => throughWindows(step, input.shape, (to, from, weight) => { into[from] += weight * sent[to]; }),
  });

  const max = (step, [input], output) => {
    const winners = new Int32Array(output.values.length);
    return {
      forward: () => {
        winners.fill(-1);
        throughWindows(step, input.shape, (to, from) => {
          // the first of equal values wins, as in torch
          if (winners[to] < 0 || input.values[from] > input.values[winners[to]]) winners[to] = from;
        });
        winners.forEach((from, to) => { output.values[to] = input.values[from]; });
      },
      transpose: (sent, [into]) => winners.forEach((from, to) => { into[from] += sent[to]; }),
    };
  };

  const activation = (step, [input], output) => {
    const [value, slope] = FUNCTIONS[step.function](step.options);
    const count = output.values.length;
    return {
      forward: () => { for (let n = 0; n < count; n += 1) output.values[n] = value(input.values[n]); },
      transpose: (sent, [into]) => {
        for (let n = 0; n < count; n += 1) if (sent[n] !== 0) into[n] += sent[n] * slope(input.values[n]);
      },
    };
  };

  const add = (step, inputs, output, array) => {
    const constant = part(array(step.constant), output.values.length);
    const term = (place, n) => step.signs[place] * (inputs[place] ? inputs[place].values[n] : constant(n));
    return {
      term,
      forward: () => {
        for (let n = 0; n < output.values.length; n += 1) output.values[n] = term(0, n) + term(1, n);
      },
      transpose: (sent, into) => into.forEach((one, place) => {
        if (one) for (let n = 0; n < sent.length; n += 1) one[n] += step.signs[place] * sent[n];
      }),
    };
  };

  const move = (step, inputs, output, _array, positions) => {
    const tables = step.indices.map(([offset, length]) => positions.subarray(offset, offset + length));
    return {
      forward: () => {
        output.values.fill(0);
        tables.forEach((table, place) => table.forEach((from, to) => {
          if (from >= 0) output.values[to] = inputs[place].values[from];
        }));
      },
      transpose: (sent, into) => tables.forEach((table, place) => table.forEach((from, to) => {
        if (from >= 0) into[place][from] += sent[to];
      })),
    };
  };

  const LAYERS = { convolution, dense, scale, average, max, activation, add, move };

  /* z moved away from 0 by ε */
  const stable = (z, epsilon) => (z >= 0 ? z + epsilon : z - epsilon);

  const total = (values) => values.reduce((sum, value) => sum + value, 0);

  /* Return a function (input, class index or null) => result, as documented above, of a program and its arrays. */
  pellucid.interpreter = (program, weights, indices) => {
    const all = Float64Array.from(weights); // twice the memory, but no conversions in the loops
    const array = (place) => (place ? all.subarray(place[0], place[0] + place[1]) : null);
    const value = (shape) => ({ shape, values: new Float64Array(product(shape)), sent: new Float64Array(product(shape)), isReached: false });
    const values = [value(program.input)];
    const steps = program.steps.map((step) => {
      const output = value(step.shape);
      values[step.to] = output;
      const inputs = step.from.map((from) => (from === null ? null : values[from]));
      return { ...step, inputs, output, ...LAYERS[step.op](step, inputs, output, array, indices) };
    });
    const image = values[0];
    const last = steps.length ? steps[steps.length - 1].output : image;
    const scratch = new Float64Array(Math.max(...values.map((one) => one.values.length)));

    /* Send a number from one logit back to the image; `rule(step, into)` sends step.output.sent on to its inputs. */
    const back = (target, amount, rule) => {
      for (const one of values) {
        one.sent.fill(0);
        one.isReached = false;
      }
      last.sent[target] = amount;
      last.isReached = true;
      for (let number = steps.length - 1; number >= 0; number -= 1) {
        const step = steps[number];
        if (!step.output.isReached) continue;
        rule(step, step.inputs.map((input) => input && input.sent));
        for (const input of step.inputs) if (input) input.isReached = true;
      }
      return image.sent;
    };

    const derivative = (step, into) => step.transpose(step.output.sent, into);

    /* The rules of lrp.epsilon; what is absorbed on the way is added to `certificate`. */
    const relevance = (certificate) => (step, into) => {
      const { values: z, sent } = step.output;
      const pass = () => { for (let n = 0; n < sent.length; n += 1) into[0][n] += sent[n]; };
      if (step.rule === "pass" || step.at_zero === 0) return pass();
      if (step.op === "max" || step.op === "move") {
        const inputs = [...new Set(into)]; // the same value may be joined twice
        const before = total(inputs.map(total));
        step.transpose(sent, into);
        certificate.constant += total(sent) - (total(inputs.map(total)) - before);
        return null;
      }
      // R / z, where z is kept away from 0
      const share = scratch.subarray(0, sent.length);
      const epsilon = step.op === "activation" ? 1e-9 : program.epsilon;
      for (let n = 0; n < sent.length; n += 1) {
        share[n] = sent[n] === 0 ? 0 : sent[n] / stable(z[n], epsilon);
        certificate.stabiliser += share[n] * (stable(z[n], epsilon) - z[n]);
      }
      if (step.op === "activation") {
        for (let n = 0; n < sent.length; n += 1) into[0][n] += share[n] * (z[n] - step.at_zero);
        certificate.constant += step.at_zero * total(share);
      } else if (step.op === "add") {
        for (const place of [0, 1]) {
          for (let n = 0; n < sent.length; n += 1) {
            const own = share[n] * step.term(place, n);
            if (into[place]) into[place][n] += own;
            else certificate.constant += own;
          }
        }
      } else {
        if (step.bias) for (let n = 0; n < sent.length; n += 1) certificate.bias += share[n] * step.bias[Math.floor(n / step.each)];
        // the input may have received relevance from other layers already, so it is multiplied separately
        const own = new Float64Array(into[0].length);
        step.transpose(share, [own]);
        for (let n = 0; n < own.length; n += 1) into[0][n] += own[n] * step.inputs[0].values[n];
      }
      return null;
    };

    const [channels, height, width] = program.input;
    const summed = (valueOf) => {
      const map = new Float32Array(height * width);
      for (let pixel = 0; pixel < map.length; pixel += 1) {
        let sum = 0;
        for (let channel = 0; channel < channels; channel += 1) sum += valueOf(channel * map.length + pixel);
        map[pixel] = sum;
      }
      return map;
    };

    return (input, classIndex = null) => {
      if (input.length !== image.values.length) {
        throw new Error(`the network takes ${image.values.length} values (${program.input.join(" × ")}), got ${input.length}`);
      }
      const start = performance.now();
      image.values.set(input);
      for (const step of steps) step.forward();
      const logits = Float64Array.from(last.values);
      const isFinite = logits.every(Number.isFinite);
      const largest = Math.max(...logits);
      const exponentials = logits.map((logit) => Math.exp(logit - largest));
      const sum = total(exponentials);
      const prediction = isFinite ? logits.indexOf(largest) : null;
      const target = isFinite ? classIndex ?? prediction : null;
      const result = {
        logits: Float32Array.from(logits),
        probabilities: Float32Array.from(exponentials, (value) => value / sum),
        prediction, target, maps: null, sums: null, certificate: null,
      };
      if (target !== null) {
        const gradient = back(target, 1, derivative);
        const plain = summed((n) => gradient[n]);
        const times = summed((n) => gradient[n] * image.values[n]);
        const certificate = { logit: logits[target], pixels: 0, bias: 0, stabiliser: 0, constant: 0 };
        const arrived = back(target, logits[target], relevance(certificate));
        certificate.pixels = total(arrived);
        result.maps = { gradient: plain, input_x_gradient: times, "lrp.epsilon": summed((n) => arrived[n]) };
        result.sums = Object.fromEntries(Object.entries(result.maps).map(([name, map]) => [name, total(map)]));
        result.certificate = certificate;
      }
      result.milliseconds = performance.now() - start;
      return result;
    };
  };

  /* The section "draw" holds the network. Its data is read at the first use, whether or not the section exists yet. */
  let model; // {input, classes, …}, null without a network
  const read = () => {
    if (model === undefined) {
      const element = document.getElementById("data-draw");
      model = (element && JSON.parse(element.textContent).model) || null;
    }
    return model;
  };
  let interpreter = null; // a promise
  const decode = async () => {
    const { program, weights, indices } = read();
    const [floats, integers] = await Promise.all([weights, indices].map(pellucid.unpack));
    return pellucid.interpreter(program, new Float32Array(floats.buffer), new Int32Array(integers.buffer));
  };
  const runModel = async (input, classIndex = null) => (await (interpreter ??= decode()))(input, classIndex);
  Object.defineProperty(pellucid, "runModel", { get: () => (read() ? runModel : null) });
  Object.defineProperty(pellucid, "modelInput", { get: () => read()?.program.input ?? null });
}
