// Training, and what is differentiated through it.

/** step(params, velocities, x, y, lr, momentum) -> [params, velocities]: v <- momentum v + g, w <- w - lr v,
 * compiled for each shape it meets. lr and momentum are arrays of one number. */
function sgdStep(logits) {
  const loss = (params, x, y) => crossEntropy(logits(params, x), y);
  return jit((params, velocities, x, y, lr, momentum) => {
    const g = grad(loss)(kept(params), x, y);
    const next = velocities.map((v, i) => v.mul(momentum.ref).add(g[i]));
    const moved = params.map((w, i) => w.sub(next[i].ref.mul(lr.ref)));
    momentum.dispose();
    lr.dispose();
    return [moved, next];
  });
}

const planeLoss = (params, x, y) => crossEntropy(tanhNetworks(params, x), y);

/** M networks after a step of SGD for each of the learning rates lr (T,), all on the same points x (1, B, 2)
 * with their classes y (1, B, 2). */
function taught(params, x, y, lr) {
  let weights = params;
  for (let t = 0; t < lr.shape[0]; t++) {
    const loss = (w) => planeLoss(w, x.ref, y.ref); // grad() treats further arguments as constants
    const g = grad(loss)(kept(weights));
    const rate = lr.ref.slice([t, t + 1]);
    weights = weights.map((w, i) => w.sub(g[i].mul(rate.ref)));
    rate.dispose();
  }
  x.dispose();
  y.dispose();
  lr.dispose();
  return weights;
}

/** The meta-loss, mean over M networks, of those taught by x and lr; and its exact gradient: how the loss on
 * real points changes with each synthetic point and each learning rate, through every step. */
const metaGradient = jit((x, lr, y, params, realX, realY) => {
  const networks = params[0].shape[0];
  const metaLoss = (theta) => planeLoss(
    taught(params, theta.x, y, theta.lr), realX, realY).mul(1 / networks);
  return valueAndGrad(metaLoss)({ x, lr });
});

/** Logits (M, N, 2), at points (1, N, 2), of M networks taught by x and lr. */
const taughtLogits = jit((x, lr, y, params, points) => tanhNetworks(taught(params, x, y, lr), points));

const HIDDEN = 16;
const GAIN = 5; // hidden weights and biases are this many times as large as PyTorch's: ten steps are few

/** M fresh 2-16-2 networks: uniform weights. */
function freshPlane(random, networks) {
  const within = (bound) => () => bound * (2 * random() - 1);
  const inner = within(GAIN / Math.sqrt(2));
  const outer = within(1 / Math.sqrt(HIDDEN));
  return [
    array(drawn(networks * 2 * HIDDEN, inner), networks, 2, HIDDEN),
    array(drawn(networks * HIDDEN, inner), networks, 1, HIDDEN),
    array(drawn(networks * HIDDEN * 2, outer), networks, HIDDEN, 2),
    array(drawn(networks * 2, outer), networks, 1, 2),
  ];
}

/** Adam (Kingma & Ba 2014) on a list of numbers, in place. */
class Adam {
  constructor(n) {
    this.count = 0;
    this.mean = new Float64Array(n);
    this.square = new Float64Array(n);
  }

  step(numbers, gradient, rates) {
    this.count += 1;
    const meanWeight = 1 - 0.9 ** this.count;
    const squareWeight = 1 - 0.99 ** this.count;
    for (let i = 0; i < numbers.length; i++) {
      this.mean[i] = 0.9 * this.mean[i] + 0.1 * gradient[i];
      this.square[i] = 0.99 * this.square[i] + 0.01 * gradient[i] ** 2;
      const size = Math.sqrt(this.square[i] / squareWeight) + 1e-8;
      numbers[i] -= (rates[i] * this.mean[i]) / meanWeight / size;
    }
  }
}
