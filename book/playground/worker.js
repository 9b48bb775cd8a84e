// The worker: all of the computing, asked for by messages {id, task, options} and answered by {id, result} or
// {id, error}. Nothing is computed unasked, so a page that stops asking stops the work.

const CHECKED = 300; // test digits on which a network is judged, together with the one that was drawn

let data = null; // what the page was built with, see build.py
let teacher = null;
let pupil = null;

/** Bytes -> what networks are shown: standardized pixels. */
function standardized(bytes) {
  const { mean, std } = data.curriculum;
  return Float32Array.from(bytes, (byte) => (byte / 255 - mean) / std);
}

/** A network that learns to read, step by step. */
class Pupil {
  /** network: conv or dense; source: curriculum or real; order: kept or shuffled; factor: of all learning
   * rates. */
  constructor({ network, source, order, factor, seed }) {
    const random = uniforms(seed);
    const { curriculum, real } = data;
    this.reader = READERS[network];
    this.source = source;
    this.taken = 0;
    this.steps = curriculum.lr.length;
    this.weights = this.reader.fresh(random);
    this.velocities = this.weights.map((w) => np.zeros(w.shape));
    this.factor = factor;
    this.lr = source === "real" ? curriculum.lr.map(() => real[network].lr) : curriculum.lr;
    this.momentum = source === "real" ? this.lr.map(() => real[network].momentum) : curriculum.momentum;
    const images = source === "real" ? data.trainImages.length / 784 : this.steps * curriculum.batch;
    const mixed = source === "real" || order === "shuffled"; // real digits come in another order each time
    this.order = mixed ? shuffled(images, random) : Array.from({ length: images }, (_, i) => i);
  }

  /** Which images the next step is taken on. */
  batch() {
    const size = data.curriculum.batch;
    return this.order.slice(this.taken * size, (this.taken + 1) * size);
  }

  step() {
    const indices = this.batch();
    const real = this.source === "real";
    const bytes = real ? data.trainImages : data.curriculumImages;
    const labels = real ? data.trainLabels : data.curriculumLabels;
    const pixels = new Uint8Array(indices.length * 784);
    const y = new Float32Array(indices.length * 10);
    indices.forEach((index, i) => {
      pixels.set(bytes.subarray(index * 784, (index + 1) * 784), i * 784);
      y[10 * i + labels[index]] = 1;
    });
    const shown = real ? standardized(pixels) : Float32Array.from(pixels, (byte) => (byte * 4) / 255 - 2);
    const rate = Float32Array.of(this.lr[this.taken] * this.factor);
    const began = performance.now();
    [this.weights, this.velocities] = this.reader.step(
      this.weights, this.velocities, this.reader.input(shown, indices.length), array(y, indices.length, 10),
      array(rate, 1), array(Float32Array.of(this.momentum[this.taken]), 1));
    this.weights[0].ref.dataSync(); // waits for the result
    this.taken += 1;
    return { indices, lr: rate[0], milliseconds: performance.now() - began };
  }

  /** The test digits and, after them, the drawn image (784 bytes) or another test digit, as the network takes
   * them. Kept until another image is drawn. */
  shown(drawing) {
    if (!this.input || this.drawing !== String(drawing)) {
      const bytes = new Uint8Array((CHECKED + 1) * 784);
      bytes.set(data.testImages.subarray(0, CHECKED * 784));
      bytes.set(drawing ?? data.testImages.subarray(0, 784), CHECKED * 784);
      this.input?.dispose();
      this.input = this.reader.input(standardized(bytes), CHECKED + 1);
      this.drawing = String(drawing);
    }
    return this.input.ref;
  }

  /** Share of the test digits that it reads, and probabilities of the ten classes for the drawing. */
  judge(drawing) {
    const logits = this.reader.read(kept(this.weights), this.shown(drawing)).dataSync();
    let right = 0;
    for (let i = 0; i < CHECKED; i++) {
      right += +(largest(logits.subarray(10 * i, 10 * i + 10)) === data.testLabels[i]);
    }
    const last = logits.subarray(10 * CHECKED);
    const top = Math.max(...last);
    const parts = Array.from(last, (logit) => Math.exp(logit - top));
    const sum = parts.reduce((a, b) => a + b);
    return { accuracy: right / CHECKED, probabilities: parts.map((part) => part / sum),
      finite: logits.every(Number.isFinite) };
  }

  dispose() {
    [...this.weights, ...this.velocities, this.input].forEach((a) => a.dispose());
  }
}

const largest = (numbers) => numbers.indexOf(Math.max(...numbers));

/** Weights of a fresh 4-32-2 policy before each step of the curriculum `cartpole-10` and after the last one:
 * T + 1 lists of [hidden weights, hidden biases, head weights, head biases]. */
function taughtPolicy(seed) {
  const { x, y, lr, momentum, batch } = data.policy;
  const random = uniforms(seed);
  const within = (n, bound) => drawn(n, () => bound * (2 * random() - 1));
  let weights = [array(within(128, 1 / 2), 1, 4, 32), array(within(32, 1 / 2), 1, 1, 32),
    array(within(64, 1 / Math.sqrt(32)), 1, 32, 2), array(within(2, 1 / Math.sqrt(32)), 1, 1, 2)];
  let velocities = weights.map((w) => np.zeros(w.shape));
  const numbers = () => weights.map((w) => w.ref.dataSync());
  const kinds = [numbers()];
  lr.forEach((rate, t) => {
    const states = Float32Array.from(x.slice(t * batch * 4, (t + 1) * batch * 4));
    const actions = Float32Array.from(y.slice(t * batch * 2, (t + 1) * batch * 2));
    [weights, velocities] = policyStep(
      weights, velocities, array(states, 1, batch, 4), array(actions, 1, batch, 2),
      array(Float32Array.of(rate), 1), array(Float32Array.of(momentum[t]), 1));
    kinds.push(numbers());
  });
  [...weights, ...velocities].forEach((a) => a.dispose());
  return kinds;
}

const policyStep = sgdStep(tanhNetworks);

const TASKS = {
  /** `given`: the data; answers once jax-js is ready. */
  async start(given) {
    data = given;
    await jax.init("wasm");
    jax.defaultDevice("wasm");
    Object.values(READERS).forEach((reader) => {
      reader.step = sgdStep(reader.logits);
      reader.read = jit(reader.logits);
    });
  },

  teacherReset({ problem, placed, seed }) {
    teacher = new Teacher(problem, placed, seed);
    return teacher.state();
  },

  teacherPlaced({ placed }) {
    teacher.placed = placed;
  },

  /** Outer steps for so many milliseconds, one at least. */
  teacherSteps({ milliseconds }) {
    const losses = [];
    const end = performance.now() + milliseconds;
    do losses.push(teacher.step());
    while (performance.now() < end);
    return { ...teacher.state(), losses };
  },

  teacherJudge: () => teacher.judge(),

  teacherMove({ point, x, y }) {
    teacher.move(point, x, y);
    return teacher.state();
  },

  pupilReset({ drawing, ...options }) {
    pupil?.dispose();
    pupil = new Pupil(options);
    return { ...pupil.judge(drawing), next: pupil.batch(), taken: 0 };
  },

  pupilStep({ drawing }) {
    const step = pupil.step();
    return { ...step, ...pupil.judge(drawing), next: pupil.batch(), taken: pupil.taken };
  },

  pupilJudge: ({ drawing }) => pupil.judge(drawing),

  policy: ({ seed }) => taughtPolicy(seed),
};

if (typeof onmessage !== "undefined") {
  onmessage = async ({ data: { id, task, options } }) => {
    try {
      postMessage({ id, result: await TASKS[task](options) });
    } catch (error) {
      postMessage({ id, error: error.message });
    }
  };
}
