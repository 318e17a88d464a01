// Three ways to move n chains whose stationary density is exp(-U).
// A move takes the state {eps, x, energy, potential, grad} and gives the next, with the share accepted.

// Langevin dynamics (Eq. 2): half a step down the gradient, and noise.
function langevin(product, state, n, stepSize, random) {
  const eps = proposal(state, stepSize, random.normals(state.eps.length));
  return { ...product.withGradient(eps, n), eps, accepted: 1 };
}

// Langevin dynamics with a Metropolis test, which makes it exact at every step size.
function mala(product, state, n, stepSize, random) {
  const noise = random.normals(state.eps.length);
  const eps = proposal(state, stepSize, noise);
  const next = { ...product.withGradient(eps, n), eps };
  const back = proposal(next, stepSize, new Float64Array(eps.length)); // where the way back would aim
  const logRatio = new Float64Array(n);
  for (let row = 0; row < n; row++) {
    let logQ = 0; // log q(old | new) - log q(new | old)
    for (let i = row * product.size; i < (row + 1) * product.size; i++) {
      logQ += noise[i] ** 2 / 2 - (state.eps[i] - back[i]) ** 2 / (2 * stepSize);
    }
    logRatio[row] = state.potential[row] - next.potential[row] + logQ;
  }
  return metropolis(product, state, next, logRatio, random);
}

// A fresh draw of the VAE as proposal: its density cancels |eps|²/2, and the energies decide.
function independence(product, state, n, stepSize, random) {
  const eps = random.normals(state.eps.length);
  const next = { ...product.withGradient(eps, n), eps };
  const logRatio = state.energy.map((e, row) => e - next.energy[row]);
  return metropolis(product, state, next, logRatio, random);
}

function proposal({ eps, grad }, stepSize, noise) {
  return eps.map((e, i) => e - (stepSize / 2) * grad[i] + Math.sqrt(stepSize) * noise[i]);
}

// Each chain goes to its proposal with probability min(1, exp(logRatio)), or stays.
function metropolis(product, state, next, logRatio, random) {
  const n = logRatio.length;
  const kept = {};
  const take = logRatio.map((r) => (Math.log(random.uniform()) < r ? 1 : 0));
  for (const name of ['eps', 'grad', 'x', 'energy', 'potential']) {
    const width = next[name].length / n; // numbers of one chain
    kept[name] = next[name].map((v, i) => (take[Math.floor(i / width)] ? v : state[name][i]));
  }
  return { ...kept, accepted: take.reduce((a, b) => a + b) / n };
}

const MOVES = { Langevin: langevin, MALA: mala, independence };
