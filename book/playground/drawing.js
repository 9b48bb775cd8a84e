// Drawing on canvases, in the colours of the style sheet, light or dark.

/** The value of a colour of the style sheet, such as "--blue". */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** [red, green, blue] of a colour written as #rrggbb. */
const rgb = (name) => [1, 3, 5].map((i) => parseInt(colour(name).slice(i, i + 2), 16));

/** A canvas as sharp as the screen: its context in CSS pixels, emptied, and its size. */
function prepared(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return { context, width, height };
}

/** Lines over x, with an axis on each side. lines: [{points: [[x, y], ...], colour, width}] · x, y: [least,
 * most] · ticks: {x: [...], y: [...]}, shown by `name`. */
function drawChart(canvas, { lines, x, y, ticks, name }) {
  const { context, width, height } = prepared(canvas);
  const left = 44;
  const bottom = height - 22;
  const across = (value) => left + ((width - left - 10) * (value - x[0])) / (x[1] - x[0]);
  const up = (value) => bottom - ((bottom - 8) * (value - y[0])) / (y[1] - y[0]);
  context.font = "12px system-ui, sans-serif";
  context.lineWidth = 1;
  context.strokeStyle = colour("--line");
  context.fillStyle = colour("--quiet");
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const tick of ticks.y) {
    context.beginPath();
    context.moveTo(left, up(tick));
    context.lineTo(width - 10, up(tick));
    context.stroke();
    context.fillText(name(tick), left - 6, up(tick));
  }
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const tick of ticks.x) context.fillText(String(tick), across(tick), bottom + 6);
  for (const line of lines) {
    context.strokeStyle = line.colour;
    context.lineWidth = line.width;
    context.lineJoin = "round";
    context.beginPath();
    line.points.forEach(([a, b]) => context.lineTo(across(a), up(Math.min(y[1], Math.max(y[0], b)))));
    context.stroke();
  }
}

/** Ticks at which the axis from 0 to most is cut into few round parts. */
function roundTicks(most) {
  const unit = 10 ** Math.floor(Math.log10(most));
  const part = [0.2, 0.5, 1, 2].map((factor) => factor * unit).find((size) => most / size <= 5);
  return Array.from({ length: Math.floor(most / part) + 1 }, (_, i) => i * part);
}

/** A picture of numbers 0 to 255 (size x size): from blue over the middle to orange. */
function regionPicture(values, size) {
  const [blue, middle, orange] = ["--blue-ground", "--middle", "--orange-ground"].map(rgb);
  const picture = new ImageData(size, size);
  values.forEach((value, i) => {
    const share = value / 127.5 - 1;
    const end = share < 0 ? blue : orange;
    for (let k = 0; k < 3; k++) {
      picture.data[4 * i + k] = middle[k] + Math.abs(share) * (end[k] - middle[k]);
    }
    picture.data[4 * i + 3] = 255;
  });
  return asCanvas(picture);
}

/** A grey picture of bytes (width x height). */
function greyPicture(bytes, width, height) {
  const picture = new ImageData(width, height);
  bytes.forEach((byte, i) => picture.data.set([byte, byte, byte, 255], 4 * i));
  return asCanvas(picture);
}

function asCanvas(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

/** A circle for class 0, a square for class 1, so that colour is not all that tells them apart. */
function mark(context, x, y, radius, c, edge) {
  context.beginPath();
  if (c) context.rect(x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8);
  else context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colour(c ? "--orange" : "--blue");
  context.fill();
  if (!edge) return;
  context.lineWidth = 2.5;
  context.strokeStyle = edge;
  context.stroke();
}

/** Calls draw whenever the colours or the width of the page change. */
function onRedraw(draw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("resize", draw);
}
