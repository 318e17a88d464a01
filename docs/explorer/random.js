// Random numbers from a seed: after a reset the same chains come again.

function makeRandom(seed) {
  // The generator is mulberry32 by Tommy Ettinger, of 32 bits of state.
  function uniform() {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  // A standard normal number, by the formula of Box and Muller.
  function normal() {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  }

  function normals(n) {
    return Float64Array.from({ length: n }, normal);
  }

  return { uniform, normals };
}
