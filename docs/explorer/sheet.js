// The second explorer: the density of a VAE with one latent number, in its noise and in (z, x).

const sheet = (() => {
  const box = document.getElementById('sheet');
  const [width, noiseZ, noiseX] = ['width', 'z', 'x'].map((name) => box.querySelector(`[name=${name}]`));
  const status = box.querySelector('[role=status]');
  const [left, right] = [...box.querySelectorAll('canvas')].map((canvas) => new Plane(canvas, 4));
  const ETA = 1; // the step size of both arrows: half of it times the gradient

  // The decoder of chapter 35: a curve that the sheet follows, and how thick the sheet is there.
  const mean = (z) => 2 * Math.tanh(z);
  const scale = (z, w) => w * Math.exp(0.8 * Math.tanh(z));
  const toData = ([z, e], w) => [z, mean(z) + scale(z, w) * e];
  const toNoise = ([z, x], w) => [z, (x - mean(z)) / scale(z, w)];

  // Log densities up to the same constant: they differ by the Jacobian, log scale(z).
  const logNoise = ([z, e]) => -(z * z + e * e) / 2;
  const logData = (point, w) => logNoise(toNoise(point, w)) - Math.log(scale(point[0], w));

  // Their gradients.
  const slopeNoise = ([z, e]) => [-z, -e];
  function slopeData(point, w) {
    const [z, e] = toNoise(point, w);
    const flat = 1 - Math.tanh(z) ** 2; // the derivative of tanh
    const s = scale(z, w);
    return [-z + (e * 2 * flat) / s + (e * e - 1) * 0.8 * flat, -e / s];
  }

  const along = (point, slope, share) => point.map((p, i) => p + share * (ETA / 2) * slope[i]);

  function draw() {
    const w = 10 ** Number(width.value);
    const eps = [Number(noiseZ.value), Number(noiseX.value)];
    const point = toData(eps, w);
    const shares = Array.from({ length: 21 }, (_, i) => i / 20);
    const step = shares.map((share) => along(eps, slopeNoise(eps), share));
    const jump = shares.map((share) => along(point, slopeData(point, w), share));
    let highest = -Infinity; // of the sheet, on its middle line
    for (let z = -4; z <= 4; z += 0.05) highest = Math.max(highest, logData([z, mean(z)], w));

    left.shades((z, e) => Math.exp(logNoise([z, e])));
    left.arrow(step, '#2166ac');
    left.dot(...eps, 7, '#111111');
    right.shades((z, x) => Math.exp(logData([z, x], w) - highest));
    right.arrow(jump, '#e08214');
    right.arrow(step.map((s) => toData(s, w)), '#2166ac');
    right.dot(...point, 7, '#111111');

    const off = Math.abs(toNoise(jump.at(-1), w)[1]);
    for (const input of [width, noiseZ, noiseX]) {
      const value = Number(input.value);
      const text = input === width ? w.toPrecision(2) : value.toFixed(1);
      input.nextElementSibling.value = text;
      input.setAttribute('aria-valuetext', text);
    }
    status.textContent =
      `Here the sheet has a standard deviation of ${scale(eps[0], w).toPrecision(2)}. ` +
      `After the step in noise space x is ${Math.abs(step.at(-1)[1]).toFixed(1)} standard deviations ` +
      `from the sheet's middle, after the step in data space ${off < 1000 ? off.toFixed(1) : 'over 1,000'}.`;
  }

  // A pointer on the left picture takes the point along.
  function drag(event) {
    if (!event.buttons) return;
    [noiseZ.value, noiseX.value] = left.under(event);
    draw();
  }

  box.addEventListener('input', draw);
  left.pen.canvas.addEventListener('pointerdown', drag);
  left.pen.canvas.addEventListener('pointermove', drag);
  draw();
  return { toData, logData, slopeData };
})();
