// The tab "CartPole": the physics, the policy, and the visitor's pushes.

const CARTPOLE = { gravity: 9.8, length: 0.5, masspole: 0.1, masscart: 1.0, force: 10.0, tau: 0.02 };
const MOST_ANGLE = (12 * Math.PI) / 180;
const MOST_POSITION = 2.4;
const PUSH = 0.6; // of the visitor: so much the angular velocity changes, rad/s

/** The next state [x, x_dot, theta, theta_dot] (m, rad) after a push to the left (0) or right (1): the
 * equations of minigtn.agents.environments. */
function cartpoleStep([x, xDot, theta, thetaDot], action) {
  const { gravity, length, masspole, masscart, force, tau } = CARTPOLE;
  const mass = masspole + masscart;
  const moment = (masspole * length) / mass;
  const push = ((2 * action - 1) * force) / mass + moment * thetaDot ** 2 * Math.sin(theta);
  const inertia = (4 / 3) * length - (length * masspole * Math.cos(theta) ** 2) / mass;
  const thetaAcc = (gravity * Math.sin(theta) - Math.cos(theta) * push) / inertia;
  const xAcc = push - moment * thetaAcc * Math.cos(theta);
  return [x + tau * xDot, xDot + tau * xAcc, theta + tau * thetaDot, thetaDot + tau * thetaAcc];
}

const cartpoleOver = ([x, , theta]) => Math.abs(x) > MOST_POSITION || Math.abs(theta) > MOST_ANGLE;

/** The likelier action of a 4-32-2 tanh policy with weights (in, out). */
function policyAction([w0, b0, w1, b1], state) {
  const logits = [b1[0], b1[1]];
  b0.forEach((bias, unit) => {
    const sum = state.reduce((so, value, i) => so + value * w0[32 * i + unit], bias);
    logits[0] += Math.tanh(sum) * w1[2 * unit];
    logits[1] += Math.tanh(sum) * w1[2 * unit + 1];
  });
  return +(logits[1] > logits[0]);
}

class CartpoleTab {
  constructor(worker, { policy }) {
    this.worker = worker;
    byId("cartpole-states").textContent = String(policy.lr.length * policy.batch);
    this.queue = new Queue();
    this.kinds = null; // weights after 0, 1, ... 10 steps
    this.playing = true;
    this.upright();
    byId("cartpole-play").addEventListener("click", () => {
      this.playing = !this.playing;
      byId("cartpole-play").textContent = this.playing ? "Pause" : "Play";
      this.frame();
    });
    byId("cartpole-left").addEventListener("click", () => this.push(-1));
    byId("cartpole-right").addEventListener("click", () => this.push(1));
    byId("cartpole-upright").addEventListener("click", () => this.upright());
    byId("cartpole-fresh").addEventListener("click", () => this.teach());
    byId("cartpole-taught").addEventListener("input", () => {
      byId("cartpole-taught-shown").textContent = byId("cartpole-taught").value;
      this.upright();
    });
    const scene = byId("cartpole-scene");
    scene.addEventListener("pointerdown", (event) => {
      const box = scene.getBoundingClientRect();
      this.push(event.clientX < box.left + box.width / 2 ? 1 : -1); // away from the finger
    });
    byId("cartpole").addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (way && event.target.type !== "range") this.push(way);
    });
    onRedraw(() => this.draw());
  }

  open() {
    if (!this.kinds) this.teach();
    this.last = performance.now();
    this.frame();
  }

  teach() {
    return this.queue.add(async () => {
      say("A fresh policy is taught ...");
      this.kinds = await this.worker.ask("policy", { seed: newSeed() });
      say("Taught in ten steps. Push the pole; or see, with the slider, what the policy could do earlier.");
      this.upright();
      this.frame();
    });
  }

  upright() {
    this.state = drawn(4, () => 0.1 * Math.random() - 0.05);
    this.survived = 0;
    this.over = false;
    this.draw();
  }

  push(way) {
    this.state[3] += PUSH * way;
    this.pushed = way;
    this.pushedAt = performance.now();
  }

  /** Simulates up to now, and draws; goes on by itself while the tab is open. */
  frame() {
    if (this.waiting || !this.playing || !this.kinds || byId("cartpole").hidden) return;
    this.waiting = true;
    requestAnimationFrame((now) => {
      this.waiting = false;
      const passed = Math.min(0.2, (now - (this.last ?? now)) / 1000);
      this.owed = (this.owed ?? 0) + passed;
      this.last = now;
      const weights = this.kinds[Number(byId("cartpole-taught").value)];
      for (; this.owed >= CARTPOLE.tau; this.owed -= CARTPOLE.tau) this.simulate(weights);
      this.draw();
      this.frame();
    });
  }

  simulate(weights) {
    if (this.over) {
      if (performance.now() - this.fell > 1500) this.upright();
      return;
    }
    this.state = cartpoleStep(this.state, policyAction(weights, Array.from(this.state)));
    this.survived += 1;
    this.over = cartpoleOver(this.state);
    if (!this.over) return;
    this.fell = performance.now();
    say(`Fallen after ${this.survived} steps.`);
  }

  draw() {
    const canvas = byId("cartpole-scene");
    if (byId("cartpole").hidden) return;
    const { context, width, height } = prepared(canvas);
    const metre = Math.min(width / 5.4, height / 2);
    const ground = height * 0.78;
    const x = width / 2 + this.state[0] * metre;
    const angle = this.state[2];
    context.strokeStyle = colour("--quiet");
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(width / 2 - MOST_POSITION * metre, ground);
    context.lineTo(width / 2 + MOST_POSITION * metre, ground);
    for (const end of [-MOST_POSITION, MOST_POSITION]) {
      context.moveTo(width / 2 + end * metre, ground - 14);
      context.lineTo(width / 2 + end * metre, ground + 14);
    }
    context.stroke();
    context.fillStyle = colour("--blue");
    context.fillRect(x - 0.3 * metre, ground - 0.18 * metre, 0.6 * metre, 0.3 * metre);
    context.strokeStyle = colour("--orange");
    context.lineWidth = Math.max(6, 0.09 * metre);
    context.lineCap = "round";
    const tip = [x + Math.sin(angle) * 1.2 * metre, ground - 0.1 * metre - Math.cos(angle) * 1.2 * metre];
    context.beginPath();
    context.moveTo(x, ground - 0.1 * metre);
    context.lineTo(...tip);
    context.stroke();
    if (performance.now() - (this.pushedAt ?? -1e9) < 300) {
      context.fillStyle = colour("--text");
      context.font = "28px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText(this.pushed > 0 ? "\u2192" : "\u2190", tip[0] - 34 * this.pushed, tip[1] + 10);
    }
    const score = `${this.over ? "Fallen after" : "Up for"} ${this.survived} steps`
      + `${this.survived >= 500 ? " (500 count as solved)" : ""}.`;
    byId("cartpole-score").textContent = score;
    canvas.setAttribute("aria-label", `Cart and pole. ${score}`);
  }
}
