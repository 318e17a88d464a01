// The third explorer: a way between two digits, through the noise of an NVAE and through pixels.
// The pictures of the ways were computed before; `data.py` says in which order they lie in one file.

const digits = (() => {
  const box = document.getElementById('digits');
  const [first, second, moving, slider] = ['first', 'second', 'moving', 'position'].map((name) =>
    box.querySelector(`[name=${name}]`)
  );
  const status = box.querySelector('[role=status]');
  const [noise, pixels] = [...box.querySelectorAll('canvas')].map((canvas) => canvas.getContext('2d'));
  const SIDE = 16; // pixels of a digit
  const LAST = 8; // the last position
  const all = new Image();

  // Draw the digit at a position of the chosen way with its left upper corner at (x, y).
  function digit(pen, position, x, y, size) {
    const row = 10 * Number(first.value) + Number(second.value);
    const column = (LAST + 1) * moving.selectedIndex + position;
    pen.drawImage(all, column * SIDE, row * SIDE, SIDE, SIDE, x, y, size, size);
  }

  // The same of the way through pixels: one end over the other, half transparent.
  function fade(pen, position, x, y, size) {
    digit(pen, 0, x, y, size);
    pen.globalAlpha = position / LAST;
    digit(pen, LAST, x, y, size);
    pen.globalAlpha = 1;
  }

  // The digit at the position, large, above the whole way.
  function draw() {
    const now = Number(slider.value);
    for (const [pen, picture] of [[noise, digit], [pixels, fade]]) {
      const side = pen.canvas.width;
      const small = side / (LAST + 1);
      pen.imageSmoothingEnabled = false;
      picture(pen, now, 0, 0, side);
      for (let i = 0; i <= LAST; i++) picture(pen, i, i * small, side, small);
      pen.strokeStyle = '#e08214';
      pen.lineWidth = 3;
      pen.strokeRect(now * small + 1.5, side + 1.5, small - 3, small - 3);
    }
    slider.nextElementSibling.value = `${now} of ${LAST}`;
    const what = moving.selectedOptions[0].textContent;
    status.textContent =
      first.value === second.value
        ? 'Choose two different digits.'
        : `From a ${first.value} to a ${second.value}, moving ${what}: position ${now} of ${LAST}.`;
  }

  box.addEventListener('input', draw);
  all.addEventListener('load', draw);
  all.src = 'explorer/digits.png';
})();
