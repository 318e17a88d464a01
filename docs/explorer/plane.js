// A square picture of the plane from -limit to limit, in a canvas. Words stand beside it, in HTML.

class Plane {
  constructor(canvas, limit) {
    this.pen = canvas.getContext('2d');
    this.limit = limit;
    this.side = canvas.width;
  }

  // Pixels of a point of the plane.
  at(x, y) {
    const half = this.side / 2;
    return [half + (x / this.limit) * half, half - (y / this.limit) * half];
  }

  // The point of the plane under a pointer.
  under(event) {
    const box = event.target.getBoundingClientRect();
    const share = (position, start, length) => (2 * (position - start)) / length - 1;
    return [
      this.limit * share(event.clientX, box.left, box.width),
      -this.limit * share(event.clientY, box.top, box.height),
    ];
  }

  picture(image) {
    this.pen.drawImage(image, 0, 0, this.side, this.side);
  }

  // A density relative to its maximum, white to grey: shade(x, y) is between 0 and 1.
  shades(shade) {
    const { side, limit } = this;
    const image = this.pen.createImageData(side, side);
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const x = ((column + 0.5) / side) * 2 * limit - limit;
        const y = limit - ((row + 0.5) / side) * 2 * limit;
        const grey = 255 - 150 * shade(x, y);
        const at = 4 * (row * side + column);
        image.data[at] = image.data[at + 1] = image.data[at + 2] = grey;
        image.data[at + 3] = 255;
      }
    }
    this.pen.putImageData(image, 0, 0);
  }

  dot(x, y, radius, colour) {
    this.pen.fillStyle = colour;
    this.pen.beginPath();
    this.pen.arc(...this.at(x, y), radius, 0, 2 * Math.PI);
    this.pen.fill();
  }

  // A line through points, with a head at the last one.
  arrow(points, colour) {
    const { pen } = this;
    const pixels = points.map(([x, y]) => this.at(x, y));
    const [[x0, y0], [x1, y1]] = [pixels.at(-2), pixels.at(-1)];
    const angle = Math.atan2(y1 - y0, x1 - x0);
    const wing = (turn) => [x1 - 14 * Math.cos(angle + turn), y1 - 14 * Math.sin(angle + turn)];
    pen.strokeStyle = colour;
    pen.lineWidth = 4;
    pen.beginPath();
    pixels.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.moveTo(...wing(0.5));
    pen.lineTo(x1, y1);
    pen.lineTo(...wing(-0.5));
    pen.stroke();
  }
}
