// Be the teacher: the outer loop. A dozen points and ten learning rates are moved by the exact meta-gradient.

const TEACHING = {
  points: 12, // synthetic ones, half of each class
  steps: 10, // of SGD, on all of them at once
  networks: 4, // fresh ones in each outer step
  real: 128, // real points in the meta-loss
  lr: 0.3, // inner, at the beginning
  bounds: [0.01, 3], // of inner learning rates
  edge: 2, // of the plane: points stay within
  pointRate: 0.05, // outer learning rate of points, and
  lrRate: 0.02, // of the logarithms of learning rates; both fall as 1 / sqrt(outer steps) after the first
  steady: 100, // outer steps
  judges: 8, // fresh networks by which the points are judged
  unseen: 400, // real points on which they are
  grid: 40, // pixels along each side of a picture of decision regions
};

class Teacher {
  /** problem: a name in PROBLEMS; placed: [[x, y, class], ...] in place of it, or null. */
  constructor(problem, placed, seed) {
    const { points, steps, lr } = TEACHING;
    this.problem = problem;
    this.placed = placed;
    this.random = uniforms(seed);
    this.count = 0;
    this.numbers = new Float64Array(2 * points + steps).fill(Math.log(lr));
    for (let i = 0; i < 2 * points; i++) this.numbers[i] = 1.2 * (2 * this.random() - 1);
    this.classes = Uint8Array.from({ length: points }, (_, i) => i % 2);
    this.adam = new Adam(this.numbers.length);
  }

  get x() {
    return Float32Array.from(this.numbers.subarray(0, 2 * TEACHING.points));
  }

  get lr() {
    return Float32Array.from(this.numbers.subarray(2 * TEACHING.points), Math.exp);
  }

  /** What the networks learn from: x, lr and the classes, as arrays. */
  curriculum() {
    const oneHot = Float32Array.from(this.classes, (c) => c);
    const y = Float32Array.from({ length: 2 * oneHot.length }, (_, i) => +(oneHot[i >> 1] === i % 2));
    return [array(this.x, 1, TEACHING.points, 2), array(this.lr, TEACHING.steps),
      array(y, 1, TEACHING.points, 2)];
  }

  sample(n) {
    return sample(this.problem, n, this.random, this.placed);
  }

  /** One outer step; the meta-loss before it. Throws an Error where the meta-gradient is not finite. */
  step() {
    const { points, networks, real, steady, pointRate, lrRate, edge, bounds } = TEACHING;
    const data = this.sample(real);
    const fresh = freshPlane(this.random, networks);
    const [loss, g] = metaGradient(
      ...this.curriculum(), fresh, array(data.x, 1, real, 2), array(data.y, 1, real, 2));
    const value = loss.dataSync()[0];
    const lr = this.lr;
    const byLog = g.lr.dataSync().map((part, t) => part * lr[t]);
    const gradient = [...g.x.dataSync(), ...byLog];
    if (![value, ...gradient].every(Number.isFinite)) throw new Error("The meta-gradient is not finite.");
    const fall = Math.min(1, Math.sqrt(steady / (this.count + 1)));
    const rates = gradient.map((_, i) => fall * (i < 2 * points ? pointRate : lrRate));
    this.adam.step(this.numbers, gradient, rates);
    this.numbers.forEach((number, i) => {
      const [low, high] = i < 2 * points ? [-edge, edge] : bounds.map(Math.log);
      this.numbers[i] = Math.min(high, Math.max(low, number));
    });
    this.count += 1;
    return value;
  }

  /** Fresh networks taught by the points as they are: for each its decision regions (probability of class 1,
   * 0 to 255) and its accuracy on real points, which are the visitor's own or ones drawn for this purpose. */
  judge() {
    const { grid, judges, unseen, edge } = TEACHING;
    const data = this.sample(unseen);
    const n = this.placed ? Math.min(this.placed.length, unseen) : unseen;
    const where = new Float32Array(2 * (grid * grid + unseen));
    for (let i = 0; i < grid * grid; i++) {
      where[2 * i] = edge * (((i % grid) + 0.5) / (grid / 2) - 1);
      where[2 * i + 1] = -edge * ((Math.floor(i / grid) + 0.5) / (grid / 2) - 1);
    }
    where.set(data.x, 2 * grid * grid);
    const all = grid * grid + unseen;
    const fresh = freshPlane(this.random, judges);
    const logits = taughtLogits(...this.curriculum(), fresh, array(where, 1, all, 2)).dataSync();
    const margin = (network, i) => logits[2 * (network * all + i) + 1] - logits[2 * (network * all + i)];
    return Array.from({ length: judges }, (_, network) => {
      const regions = Uint8Array.from(
        { length: grid * grid }, (__, i) => 255 / (1 + Math.exp(-margin(network, i))));
      let right = 0;
      for (let i = 0; i < n; i++) {
        right += +((margin(network, grid * grid + i) > 0) === (data.c[i] === 1));
      }
      return { regions, accuracy: right / n };
    });
  }

  /** Puts a synthetic point somewhere else, as the visitor's hand does. */
  move(point, x, y) {
    const { edge } = TEACHING;
    this.numbers[2 * point] = Math.min(edge, Math.max(-edge, x));
    this.numbers[2 * point + 1] = Math.min(edge, Math.max(-edge, y));
  }

  state() {
    return { count: this.count, x: this.x, classes: this.classes, lr: this.lr };
  }
}
