// The product of VAE and energy as its chains see it: a potential of the noise,
// U(eps) = E(T(eps)) + |eps|²/2 (Eq. 9 of the paper), with its gradient.
// A vector eps holds the noise of x, two numbers, then the latent z, twenty numbers.

function makeProduct(data) {
  const decoder = readLayers(data.decoder);
  const energy = readLayers(data.energy);
  const nX = 2;
  const nZ = decoder[0].inputs;
  const size = nX + nZ;

  // x = T(eps) = mean(z) + scale(z) eps_x for n vectors, and what the way back needs.
  function transform(eps, n) {
    const z = new Float64Array(n * nZ);
    for (let row = 0; row < n; row++) {
      z.set(eps.subarray(row * size + nX, (row + 1) * size), row * nZ);
    }
    const { out, before } = forward(decoder, z, n); // two means, then two logarithms of scales
    const x = new Float64Array(n * nX);
    const scale = new Float64Array(n * nX);
    for (let row = 0; row < n; row++) {
      for (let i = 0; i < nX; i++) {
        const logScale = out[row * 2 * nX + nX + i];
        scale[row * nX + i] = Math.exp(Math.min(Math.max(logScale, -5), 2));
        x[row * nX + i] = out[row * 2 * nX + i] + scale[row * nX + i] * eps[row * size + i];
      }
    }
    return { x, scale, out, before };
  }

  function halfSquare(eps, row) {
    let sum = 0;
    for (let i = row * size; i < (row + 1) * size; i++) sum += eps[i] ** 2 / 2;
    return sum;
  }

  // x, E(x) and U for n vectors.
  function evaluate(eps, n) {
    const t = transform(eps, n);
    const e = forward(energy, t.x, n);
    return { x: t.x, energy: e.out, potential: e.out.map((v, row) => v + halfSquare(eps, row)), t, e };
  }

  // The same, and the gradient of U: through the energy to x, through the decoder to z.
  function withGradient(eps, n) {
    const found = evaluate(eps, n);
    const { t, e } = found;
    const gradX = backward(energy, e.before, new Float64Array(n).fill(1), n);
    const gradOut = new Float64Array(n * 2 * nX);
    const grad = Float64Array.from(eps); // of |eps|²/2
    for (let row = 0; row < n; row++) {
      for (let i = 0; i < nX; i++) {
        const g = gradX[row * nX + i];
        const slope = g * t.scale[row * nX + i];
        const logScale = t.out[row * 2 * nX + nX + i];
        gradOut[row * 2 * nX + i] = g;
        if (logScale >= -5 && logScale <= 2) gradOut[row * 2 * nX + nX + i] = slope * eps[row * size + i];
        grad[row * size + i] += slope;
      }
    }
    const gradZ = backward(decoder, t.before, gradOut, n);
    for (let row = 0; row < n; row++) {
      for (let i = 0; i < nZ; i++) grad[row * size + nX + i] += gradZ[row * nZ + i];
    }
    return { ...found, grad };
  }

  return { size, evaluate, withGradient };
}
