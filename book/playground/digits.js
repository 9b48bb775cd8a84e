// The tab "A network that knows nothing".

class DigitsTab {
  constructor(worker, data) {
    this.worker = worker;
    this.data = data;
    this.queue = new Queue();
    this.earlier = [];
    this.curve = [];
    this.strokes = [];
    this.drawing = null; // 784 bytes, once there is one
    this.player = new Player(byId("digits-play"), this.queue, () => this.step());
    byId("digits-step").addEventListener("click", () => this.queue.add(() => this.step()));
    byId("digits-fresh").addEventListener("click", () => this.reset());
    byId("digits-source").addEventListener("change", () => this.reset());
    byId("digits-network").addEventListener("change", () => this.reset());
    byId("digits-factor").addEventListener("input", () => {
      byId("digits-factor-shown").textContent = String(this.factor());
      byId("digits-factor").setAttribute("aria-valuetext", `times ${this.factor()}`);
    });
    byId("digits-factor").addEventListener("change", () => this.reset());
    byId("digits-clear").addEventListener("click", () => this.erase());
    byId("digits-sample").addEventListener("click", () => this.sample(Math.floor(10 * Math.random())));
    this.listenToPad();
    onRedraw(() => this.draw());
  }

  factor() {
    return 2 ** Number(byId("digits-factor").value);
  }

  /** Called when the tab is opened. */
  open() {
    if (this.curve.length) this.draw();
    else this.reset();
  }

  reset() {
    this.player.pause();
    return this.queue.add(async () => {
      if (this.curve.length > 1) this.earlier.push({ points: this.curve, kind: this.kind });
      this.earlier = this.earlier.slice(-8);
      const chosen = byId("digits-source").value;
      this.kind = chosen;
      say("Compiling ...");
      const state = await this.worker.ask("pupilReset", {
        network: byId("digits-network").value,
        source: chosen === "real" ? "real" : "curriculum",
        order: chosen === "shuffled" ? "shuffled" : "kept",
        factor: this.factor(),
        seed: newSeed(),
        drawing: this.drawing,
      });
      this.curve = [];
      this.lr = null;
      this.milliseconds = 0;
      this.take(state);
      say("A fresh network. Press Play.");
    });
  }

  /** One step; false where there is none left. */
  async step() {
    if (this.taken === 32) return false;
    if (this.taken === 0) say("Training (the first step takes longer: it is compiled) ...");
    const state = await this.worker.ask("pupilStep", { drawing: this.drawing });
    this.lr = state.lr;
    this.milliseconds += state.milliseconds;
    this.take(state);
    if (this.taken < 32) return true;
    const seconds = (this.milliseconds / 1000).toFixed(2);
    say(state.finite
      ? `Taught in 32 steps (they took ${seconds} s): it reads ${percent(state.accuracy)}.`
      : "It has diverged: numbers too large for a float. Try smaller learning rates.");
    return false;
  }

  take(state) {
    this.taken = state.taken;
    this.shown = state.next.length ? state.next : this.shown;
    this.curve.push([state.taken, state.accuracy]);
    this.probabilities = state.probabilities;
    this.finite = state.finite;
    this.draw();
  }

  draw() {
    if (!this.curve.length || byId("digits").hidden) return;
    this.drawBatch();
    const line = { curriculum: "--blue", shuffled: "--quiet", real: "--orange" };
    const accuracy = this.curve[this.curve.length - 1][1];
    const chart = byId("digits-chart");
    drawChart(chart, {
      lines: [
        ...this.earlier.map(({ points, kind }) => ({ points, colour: colour(line[kind]), width: 1 })),
        { points: this.curve, colour: colour(line[this.kind]), width: 3 },
      ],
      x: [0, 32],
      y: [0, 1],
      ticks: { x: [0, 8, 16, 24, 32], y: [0, 0.5, 1] },
      name: (share) => `${100 * share} %`,
    });
    const said = `After ${this.taken} steps ${percent(accuracy)} of the test digits are read`;
    chart.setAttribute("aria-label", said);
    this.drawAnswer();
    this.drawPad();
  }

  /** The images of the next step, or of the last one. */
  drawBatch() {
    const real = this.kind === "real";
    const bytes = real ? this.data.trainImages : this.data.curriculumImages;
    const canvas = byId("digits-batch");
    const context = canvas.getContext("2d");
    canvas.width = 8 * 50;
    canvas.height = 4 * 50;
    context.clearRect(0, 0, canvas.width, canvas.height);
    this.shown.forEach((index, i) => {
      const picture = greyPicture(bytes.subarray(784 * index, 784 * (index + 1)), 28, 28);
      context.drawImage(picture, 50 * (i % 8) + 1, 50 * Math.floor(i / 8) + 1, 48, 48);
    });
    const what = real ? "real digits" : "synthetic digits";
    const accuracy = percent(this.curve[this.curve.length - 1][1]);
    const rate = this.lr === null ? "" : ` Last learning rate ${this.lr.toFixed(3)}.`;
    const which = this.taken === 32
      ? "Step 32 of 32 was taken"
      : `Step ${this.taken + 1} of 32 will be taken`;
    byId("digits-caption").textContent =
      `${which} on these ${what}. Now it reads ${accuracy} of the test digits.${rate}`;
    canvas.setAttribute("aria-label", `${this.shown.length} ${what}`);
  }

  drawAnswer() {
    const bars = byId("digits-bars");
    const { context, width, height } = prepared(bars);
    const row = height / 10;
    const shares = this.drawing && this.finite ? this.probabilities : new Array(10).fill(0);
    const best = shares.indexOf(Math.max(...shares));
    context.font = "13px system-ui, sans-serif";
    context.textBaseline = "middle";
    shares.forEach((share, digit) => {
      context.fillStyle = colour("--text");
      context.fillText(String(digit), 2, row * (digit + 0.5));
      context.fillStyle = colour("--raised");
      context.fillRect(20, row * digit + 3, width - 80, row - 6);
      context.fillStyle = colour(digit === best ? "--accent" : "--quiet");
      context.fillRect(20, row * digit + 3, share * (width - 80), row - 6);
      if (share >= 0.005) context.fillText(`${Math.round(100 * share)} %`, width - 50, row * (digit + 0.5));
    });
    const certain = `${Math.round(100 * shares[best])} %`;
    let answer = "Draw a digit.";
    if (this.drawing) answer = this.finite ? `It reads ${best} (${certain})` : "It has diverged.";
    byId("digits-answer").textContent = answer;
    bars.setAttribute("aria-label", answer);
  }

  // ---- the drawing area ----

  listenToPad() {
    const pad = byId("digits-pad");
    let drawing = false;
    const place = (event) => {
      const box = pad.getBoundingClientRect();
      return [(280 * (event.clientX - box.left)) / box.width, (280 * (event.clientY - box.top)) / box.height];
    };
    pad.addEventListener("pointerdown", (event) => {
      drawing = true;
      if (event.isTrusted) pad.setPointerCapture(event.pointerId);
      if (this.picture) this.erase();
      this.strokes.push([place(event)]);
      this.drawPad();
    });
    pad.addEventListener("pointermove", (event) => {
      if (!drawing) return;
      this.strokes[this.strokes.length - 1].push(place(event));
      this.drawPad();
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      pad.addEventListener(kind, () => {
        if (drawing) this.read(centredDigit(pad));
        drawing = false;
      });
    }
    pad.addEventListener("keydown", (event) => {
      if (/^[0-9]$/.test(event.key)) this.sample(Number(event.key));
    });
    this.drawPad();
  }

  drawPad() {
    const context = byId("digits-pad").getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#000";
    context.fillRect(0, 0, 280, 280);
    if (this.picture) context.drawImage(this.picture, 0, 0, 280, 280);
    context.strokeStyle = "#fff";
    context.lineWidth = 22;
    context.lineCap = "round";
    context.lineJoin = "round";
    for (const stroke of this.strokes) {
      context.beginPath();
      context.moveTo(...stroke[0]);
      stroke.forEach((point) => context.lineTo(...point));
      context.stroke();
    }
  }

  /** A real test digit of a class, in place of a drawing. */
  sample(digit) {
    const { testLabels, testImages } = this.data;
    const some = [...testLabels.keys()].filter((i) => testLabels[i] === digit);
    const index = some[Math.floor(some.length * Math.random())];
    const bytes = testImages.slice(784 * index, 784 * (index + 1));
    this.strokes = [];
    this.picture = greyPicture(bytes, 28, 28);
    this.drawPad();
    this.read(bytes);
  }

  erase() {
    this.strokes = [];
    this.picture = null;
    this.drawing = null;
    this.drawPad();
    if (this.curve.length) this.drawAnswer();
  }

  read(bytes) {
    this.drawing = bytes;
    return this.queue.add(async () => {
      if (!this.curve.length) return;
      const { probabilities, finite } = await this.worker.ask("pupilJudge", { drawing: this.drawing });
      this.probabilities = probabilities;
      this.finite = finite;
      this.drawAnswer();
    });
  }
}

/** What is drawn, as MNIST's digits are: 784 bytes, the ink within 20 x 20 pixels and its centre of mass in
 * the middle of 28 x 28; null where there is none. */
function centredDigit(pad) {
  const { data } = pad.getContext("2d").getImageData(0, 0, 280, 280);
  let [left, top, right, bottom, mass, sumX, sumY] = [280, 280, -1, -1, 0, 0, 0];
  for (let y = 0; y < 280; y++) {
    for (let x = 0; x < 280; x++) {
      const ink = data[4 * (280 * y + x)];
      if (ink < 32) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
      mass += ink;
      sumX += ink * x;
      sumY += ink * y;
    }
  }
  if (!mass) return null;
  const scale = 20 / Math.max(right - left + 1, bottom - top + 1);
  const small = document.createElement("canvas");
  small.width = 28;
  small.height = 28;
  const context = small.getContext("2d");
  context.fillRect(0, 0, 28, 28);
  context.imageSmoothingQuality = "high";
  context.drawImage(pad, 14 - (scale * sumX) / mass, 14 - (scale * sumY) / mass, 280 * scale, 280 * scale);
  const pixels = context.getImageData(0, 0, 28, 28).data;
  return Uint8Array.from({ length: 784 }, (_, i) => pixels[4 * i]);
}
