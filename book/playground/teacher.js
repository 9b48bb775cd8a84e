// The tab "Be the teacher".

const EDGE = 2; // of the plane
const GRID = 40; // pixels along each side of the pictures of decision regions
const LOOK = 700; // milliseconds between two looks at fresh networks
const TRAIL = 120; // places that a point is remembered to have been at
const WHAT_IS_SHOWN = "Ground: what eight fresh networks say on average. Small: real points. Large: the "
  + "synthetic points, and the way they came last.";
const HOW_TO_PLACE = "Click, tap, or press Space at the cursor that the arrow keys move, to place real "
  + "points; then Play.";

class TeacherTab {
  constructor(worker) {
    this.worker = worker;
    this.queue = new Queue();
    this.placed = [];
    this.cursor = null; // where the keyboard points, once it does
    this.state = null;
    this.player = new Player(byId("teacher-play"), this.queue, () => this.steps(60));
    byId("teacher-step").addEventListener("click", () => this.queue.add(async () => {
      await this.steps(0);
      await this.look();
    }));
    byId("teacher-reset").addEventListener("click", () => this.reset());
    byId("teacher-problem").addEventListener("change", () => this.reset());
    byId("teacher-clear").addEventListener("click", () => {
      this.placed = [];
      this.reset();
    });
    this.listenToPlane();
    onRedraw(() => this.draw());
  }

  problem() {
    return byId("teacher-problem").value;
  }

  /** Whether there is something to learn: two placed points of each class at least. */
  ready() {
    const of = (c) => this.placed.filter((point) => point[2] === c).length;
    return this.problem() !== "placed" || (of(0) > 1 && of(1) > 1);
  }

  open() {
    if (this.state) this.draw();
    else this.reset();
  }

  reset() {
    this.player.pause();
    return this.queue.add(async () => {
      const placing = this.problem() === "placed";
      byId("teacher-placing").hidden = !placing;
      byId("teacher-hint").textContent = placing ? HOW_TO_PLACE : WHAT_IS_SHOWN;
      const shown = sample(this.problem(), placing ? 0 : 200, uniforms(1), null);
      this.real = Array.from(shown.c, (c, i) => [shown.x[2 * i], shown.x[2 * i + 1], c]);
      this.losses = [];
      this.trails = [];
      this.judged = null;
      this.marks = [];
      this.lastLook = 0;
      this.state = await this.worker.ask("teacherReset", {
        problem: this.problem(), placed: placing ? this.placed : null, seed: newSeed(),
      });
      if (this.ready()) await this.look();
      else say("Place at least two points of each class, then press Play.");
      this.draw();
    });
  }

  /** Outer steps for some milliseconds; false where there is nothing to learn. */
  async steps(milliseconds) {
    if (!this.ready()) {
      say("Place at least two points of each class, then press Play.");
      return false;
    }
    if (!this.losses.length) say("Compiling the meta-gradient ...");
    const state = await this.worker.ask("teacherSteps", { milliseconds });
    if (!this.losses.length) say("Each outer step: ten inner steps, and the way back through them.");
    this.losses.push(...state.losses);
    this.take(state);
    const now = performance.now();
    this.marks = [...this.marks.filter(([time]) => now - time < 4000), [now, state.count]];
    if (this.player.playing && now - this.lastLook > LOOK) await this.look();
    this.draw();
    return true;
  }

  take(state) {
    this.state = state;
    this.trails.push(state.x);
    this.trails = this.trails.slice(-TRAIL);
  }

  /** Fresh networks taught by the points as they are. */
  async look() {
    this.lastLook = performance.now();
    if (!this.judged) say("Compiling the networks ...");
    this.judged = await this.worker.ask("teacherJudge");
    if (!this.losses.length) say("Random points, and what they teach. Press Play.");
    this.draw();
  }

  // ---- the picture ----

  draw() {
    if (!this.state || byId("teacher").hidden) return;
    const canvas = byId("teacher-plane");
    const { context, width } = prepared(canvas);
    const at = (x, y) => [(width * (x + EDGE)) / (2 * EDGE), (width * (EDGE - y)) / (2 * EDGE)];
    context.fillStyle = colour("--middle");
    context.fillRect(0, 0, width, width);
    if (this.judged) {
      const mean = this.judged[0].regions.map(
        (_, i) => this.judged.reduce((sum, { regions }) => sum + regions[i], 0) / this.judged.length);
      context.drawImage(regionPicture(mean, GRID), 0, 0, width, width);
    }
    const placing = this.problem() === "placed";
    context.globalAlpha = placing ? 0.9 : 0.55;
    const real = placing ? this.placed : this.real;
    real.forEach(([x, y, c]) => mark(context, ...at(x, y), placing ? 5 : 3, c, null));
    context.globalAlpha = 1;
    this.drawPoints(context, at);
    if (this.cursor && document.activeElement === canvas) {
      const [x, y] = at(...this.cursor);
      context.strokeStyle = colour("--text");
      context.lineWidth = 2;
      context.strokeRect(x - 7, y - 7, 14, 14);
    }
    this.drawNumbers();
    this.drawNetworks();
  }

  drawPoints(context, at) {
    const { x, classes } = this.state;
    context.lineWidth = 1.5;
    classes.forEach((c, i) => {
      context.strokeStyle = colour(c ? "--orange" : "--blue");
      context.globalAlpha = 0.6;
      context.beginPath();
      this.trails.forEach((was) => context.lineTo(...at(was[2 * i], was[2 * i + 1])));
      context.stroke();
    });
    context.globalAlpha = 1;
    classes.forEach((c, i) => mark(context, ...at(x[2 * i], x[2 * i + 1]), 8.5, c, colour("--text")));
  }

  drawNumbers() {
    const [first, last] = [this.marks[0], this.marks[this.marks.length - 1]];
    const seconds = last ? (last[0] - first[0]) / 1000 : 0;
    const accuracies = (this.judged ?? []).map(({ accuracy }) => accuracy);
    const mean = accuracies.reduce((a, b) => a + b, 0) / accuracies.length;
    const recent = this.losses.slice(-20);
    const loss = recent.reduce((a, b) => a + b, 0) / recent.length;
    byId("teacher-accuracy").textContent = accuracies.length
      ? `${percent(mean)} (least ${Math.round(100 * Math.min(...accuracies))})` : "-";
    byId("teacher-count").textContent = String(this.state.count);
    byId("teacher-speed").textContent = seconds > 0.5 ? ((last[1] - first[1]) / seconds).toFixed(1) : "-";
    byId("teacher-loss").textContent = recent.length ? loss.toFixed(3) : "-";
    byId("teacher-plane").setAttribute("aria-label",
      `The plane, with ${this.state.classes.length} synthetic points. ${accuracies.length
        ? `Fresh networks read ${percent(mean)} of the real points` : "Nothing judged yet"}, after ${
        this.state.count} outer steps.`);
    const most = Math.max(50, this.losses.length);
    const high = Math.max(0.8, ...this.losses.slice(0, 5));
    const each = Math.max(1, Math.floor(this.losses.length / 400));
    const chart = byId("teacher-chart");
    drawChart(chart, {
      lines: [{
        points: this.losses.map((value, i) => [i + 1, value]).filter((_, i) => i % each === 0),
        colour: colour("--accent"),
        width: 1.5,
      }],
      x: [0, most],
      y: [0, high],
      ticks: { x: roundTicks(most), y: roundTicks(high) },
      name: (tick) => tick.toFixed(1),
    });
    chart.setAttribute("aria-label", recent.length ? `Meta-loss, now ${loss.toFixed(3)}` : "Meta-loss");
  }

  drawNetworks() {
    const canvas = byId("teacher-networks");
    const { context, width } = prepared(canvas);
    const size = (width - 24) / 4;
    (this.judged ?? []).slice(0, 4).forEach(({ regions, accuracy }, i) => {
      const left = i * (size + 8);
      context.drawImage(regionPicture(regions, GRID), left, 0, size, size);
      context.fillStyle = colour("--text");
      context.font = "12px system-ui, sans-serif";
      context.fillText(percent(accuracy), left + 5, size - 7);
    });
    const shares = (this.judged ?? []).slice(0, 4).map(({ accuracy }) => percent(accuracy));
    canvas.setAttribute("aria-label", `Decision regions of four fresh networks. ${shares.join(", ")}`);
  }

  // ---- the visitor's hand ----

  listenToPlane() {
    const plane = byId("teacher-plane");
    let held = null;
    const place = (event) => {
      const box = plane.getBoundingClientRect();
      return [
        EDGE * ((2 * (event.clientX - box.left)) / box.width - 1),
        -EDGE * ((2 * (event.clientY - box.top)) / box.height - 1),
      ];
    };
    plane.addEventListener("pointerdown", (event) => {
      if (!this.state) return;
      const [x, y] = place(event);
      held = this.pointAt(x, y);
      if (held === null && this.problem() === "placed") this.place(x, y);
      if (held !== null && event.isTrusted) plane.setPointerCapture(event.pointerId);
    });
    plane.addEventListener("pointermove", (event) => {
      if (held !== null) this.move(held, ...place(event));
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      plane.addEventListener(kind, () => {
        if (held !== null && this.ready()) this.queue.add(() => this.look());
        held = null;
      });
    }
    plane.addEventListener("keydown", (event) => this.key(event));
    plane.addEventListener("focus", () => this.draw());
    plane.addEventListener("blur", () => this.draw());
  }

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const way = ways[event.key];
    if (this.problem() !== "placed" || !(way || event.key === " ")) return;
    event.preventDefault();
    this.cursor ??= [0, 0];
    if (way) this.cursor = this.cursor.map((at, i) => Math.min(EDGE, Math.max(-EDGE, at + 0.1 * way[i])));
    else this.place(...this.cursor);
    this.draw();
  }

  /** The synthetic point within reach, or null. */
  pointAt(x, y) {
    const points = this.state.x;
    const far = (i) => Math.hypot(points[2 * i] - x, points[2 * i + 1] - y);
    const nearest = [...this.state.classes.keys()].reduce((a, b) => (far(a) < far(b) ? a : b));
    return far(nearest) < (this.problem() === "placed" ? 0.08 : 0.14) ? nearest : null;
  }

  move(point, x, y) {
    return this.queue.add(async () => {
      this.take(await this.worker.ask("teacherMove", { point, x, y }));
      this.draw();
    });
  }

  /** A real point of the class that is chosen. */
  place(x, y) {
    const c = Number(document.querySelector("input[name=class]:checked").value);
    this.placed.push([x, y, c]);
    this.queue.add(async () => {
      await this.worker.ask("teacherPlaced", { placed: this.placed });
      if (this.ready() && !this.losses.length) say("Press Play.");
      this.draw();
    });
  }
}
