// Plays the curriculum: one slider moves the images, the numbers and a line over the curves.
// Everything that depends on the run stands in data attributes; without this script all steps stay in view.
"use strict";
const player = document.getElementById("player");
const slider = document.getElementById("player-step");
const play = document.getElementById("player-play");
const sheet = document.querySelector(".sheet");
const { cell, gap, values, says, ...given } = JSON.parse(player.dataset.steps);
const scale = innerWidth > 600 ? given.scale : given.phone;
const last = says.length - 1;
const PACE = Math.min(900, Math.max(300, 9000 / says.length)); // milliseconds for a step

function element(kind, name, parent) {
  const made = document.createElement(kind);
  made.className = name;
  return parent.appendChild(made);
}

// A view of one cell of a picture whose cells stand side by side.
function view(picture, columns, name, parent) {
  const frame = element("span", name, parent);
  frame.style.width = `${cell[0] * scale}px`;
  frame.style.height = `${cell[1] * scale}px`;
  const image = element("img", "", frame);
  image.alt = "";
  image.src = picture.src;
  image.style.width = `${columns * (cell[0] + gap) * scale}px`;
  return image;
}

const stage = document.getElementById("player-stage");
const moving = [...sheet.querySelectorAll("tr[data-class]")].map((row) => {
  const tile = element("div", "tile", stage);
  tile.style.width = `${cell[0] * scale}px`;
  const real = row.querySelector(".example img");
  const image = view(row.querySelector(".shown img"), says.length, "view synthetic", tile);
  if (real) view(real, 1, "view genuine", tile);
  element("span", "name", tile).textContent = row.dataset.class;
  return image;
});

const cursors = [];
for (const plot of document.querySelectorAll("[data-cursors]")) {
  for (const panel of JSON.parse(plot.dataset.cursors)) {
    const line = element("span", "cursor", plot);
    line.style.top = `${100 * panel.top}%`;
    line.style.height = `${100 * (panel.bottom - panel.top)}%`;
    const dots = panel.dots.map((dot) => ({ y: dot.y, mark: element("span", `dot ${dot.colour}`, plot) }));
    cursors.push({ x: panel.x, line, dots });
  }
}

function show(now) {
  slider.value = now;
  slider.setAttribute("aria-valuetext", says[now]);
  stage.setAttribute("aria-label", `An image of each class: ${says[now]}`);
  for (const image of moving) image.style.transform = `translateX(${-now * (cell[0] + gap) * scale}px)`;
  player.querySelectorAll("[data-value]").forEach((place, i) => { place.textContent = values[now][i]; });
  for (const { x, line, dots } of cursors) {
    line.style.left = `${100 * x[now]}%`;
    for (const { y, mark } of dots) {
      mark.style.left = `${100 * x[now]}%`;
      mark.style.top = `${100 * y[now]}%`;
    }
  }
  sheet.style.setProperty("--now", now);
  sheet.querySelectorAll(".steps span").forEach((number, i) => number.classList.toggle("now", i === now));
}

let timer = null;

function stop() {
  clearInterval(timer);
  timer = null;
  play.textContent = "Play";
}

function start() {
  if (+slider.value === last) show(0);
  play.textContent = "Pause";
  timer = setInterval(() => {
    show(+slider.value + 1);
    if (+slider.value === last) stop();
  }, PACE);
}

play.addEventListener("click", () => (timer === null ? start() : stop()));
slider.addEventListener("input", () => {
  stop();
  show(+slider.value);
});
sheet.classList.add("played");
for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;
show(last);
