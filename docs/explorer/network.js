// A network of fully connected layers with SiLU between them, and its gradient by backpropagation.
// A batch of n vectors is one array, vector after vector.

// The layers as `data.py` wrote them. A weight has a row for each output.
function readLayers({ sizes, floats }) {
  const bytes = Uint8Array.from(atob(floats), (letter) => letter.charCodeAt(0));
  const numbers = new Float32Array(bytes.buffer);
  let used = 0;
  const take = (n) => numbers.subarray(used, (used += n));
  return sizes.slice(1).map((outputs, i) => {
    const inputs = sizes[i];
    return { inputs, outputs, weight: take(inputs * outputs), bias: take(outputs) };
  });
}

// y = W x + b for each of n vectors x.
function linear({ inputs, outputs, weight, bias }, x, n) {
  const y = new Float64Array(n * outputs);
  for (let row = 0; row < n; row++) {
    for (let o = 0; o < outputs; o++) {
      let sum = bias[o];
      for (let i = 0; i < inputs; i++) sum += weight[o * inputs + i] * x[row * inputs + i];
      y[row * outputs + o] = sum;
    }
  }
  return y;
}

// The gradient with respect to x, from the one with respect to y: the transpose of W times it.
function linearBackward({ inputs, outputs, weight }, gradY, n) {
  const gradX = new Float64Array(n * inputs);
  for (let row = 0; row < n; row++) {
    for (let o = 0; o < outputs; o++) {
      const g = gradY[row * outputs + o];
      for (let i = 0; i < inputs; i++) gradX[row * inputs + i] += g * weight[o * inputs + i];
    }
  }
  return gradX;
}

const sigmoid = (a) => 1 / (1 + Math.exp(-a));
const silu = (a) => a * sigmoid(a);

function siluSlope(a) {
  const s = sigmoid(a);
  return s * (1 + a * (1 - s));
}

// The output for n vectors, and what every layer put out before its SiLU, which the way back needs.
function forward(layers, x, n) {
  const before = [];
  for (const layer of layers) {
    if (before.length) x = before.at(-1).map(silu);
    before.push(linear(layer, x, n));
  }
  return { out: before.at(-1), before };
}

// The gradient with respect to the input, from the one with respect to the output.
function backward(layers, before, grad, n) {
  for (let k = layers.length - 1; k >= 0; k--) {
    grad = linearBackward(layers[k], grad, n);
    if (k > 0) grad = grad.map((g, i) => g * siluSlope(before[k - 1][i]));
  }
  return grad;
}
