// The first explorer: chains on 25 clusters, over the energy.

const chains = (() => {
  const box = document.getElementById('chains');
  const [move, slider, shown] = ['move', 'size', 'shown'].map((name) => box.querySelector(`[name=${name}]`));
  const status = box.querySelector('[role=status]');
  const runButton = box.querySelector('[name=run]');
  const plane = new Plane(box.querySelector('canvas'), DATA.limit);
  const product = makeProduct(DATA);
  const heat = new Image();
  const n = 100;
  let random, state, steps, running, before;

  const stepSize = () => 10 ** Number(slider.value);

  // Which of the modes a point lies within three sigma of, or -1.
  function modeOf(x, y) {
    return DATA.modes.findIndex(([a, b]) => Math.hypot(x - a, y - b) < 3 * DATA.sigma);
  }

  function modes() {
    return Array.from({ length: n }, (_, row) => modeOf(state.x[2 * row], state.x[2 * row + 1]));
  }

  function reset() {
    random = makeRandom(1);
    const eps = random.normals(n * product.size);
    state = { ...product.withGradient(eps, n), eps, accepted: 1 };
    steps = 0;
    before = modes().filter((mode) => mode >= 0).length;
    draw();
  }

  function step() {
    state = MOVES[move.value](product, state, n, stepSize(), random);
    steps += 1;
    draw();
  }

  function draw() {
    const found = modes();
    plane.picture(heat);
    found.forEach((mode, row) => {
      plane.dot(state.x[2 * row], state.x[2 * row + 1], 5, mode >= 0 ? '#2166ac' : '#e08214');
    });
    const near = found.filter((mode) => mode >= 0);
    const mean = state.energy.reduce((a, b) => a + b) / n;
    status.textContent =
      `After ${steps} steps: ${near.length} of ${n} points in a cluster (${before} at the start), ` +
      `${new Set(near).size} of 25 clusters hit, mean energy ${mean.toFixed(1)} nats` +
      (steps ? `; accepted in the last step ${Math.round(100 * state.accepted)} %.` : '.');
  }

  function loop() {
    if (!running) return;
    step();
    requestAnimationFrame(loop);
  }

  function toggle() {
    running = !running;
    runButton.textContent = running ? 'pause' : 'run';
    status.setAttribute('aria-live', running ? 'off' : 'polite'); // a reader is told where the chains stop
    loop();
  }

  // Independence has no step size.
  function settings() {
    slider.disabled = move.value === 'independence';
    shown.value = slider.disabled ? 'none' : stepSize().toPrecision(1);
    slider.setAttribute('aria-valuetext', shown.value);
  }

  move.addEventListener('change', settings);
  slider.addEventListener('input', settings);
  box.querySelector('[name=step]').addEventListener('click', step);
  runButton.addEventListener('click', toggle);
  box.querySelector('[name=reset]').addEventListener('click', reset);
  heat.addEventListener('load', draw);
  settings();
  reset();
  heat.src = 'explorer/energy.png';
  return { product };
})();
