// The networks, as pure functions of a list of weights. In jax-js a function owns the arrays that it is
// given; `a.ref` is a further claim to `a`. All weights are (in, out), biases and scales (1, out).

const { numpy: np, nn, grad, valueAndGrad, jit } = jax;

const SLOPE = 0.1; // of the leaky ReLU, and
const EPS = 1e-5; // under the square root of a variance: those of minigtn.networks.layers

/** Further claims to all of them. */
const kept = (arrays) => arrays.map((a) => a.ref);

/** An array of a typed array's numbers. */
const array = (numbers, ...shape) => np.array(numbers).reshape(shape);

/** Matrix products side by side, (1 or M, B, F) x (M, F, H) -> (M, B, H), as products and a sum. A compiled
 * gradient of a gradient of np.matmul is wrong in jax-js 0.1.25 (docs/log.md); of this one it is right. */
function product(a, b) {
  const [networks, rows, inner] = a.shape;
  const [more, , columns] = b.shape;
  return a.reshape([networks, rows, inner, 1]).mul(b.reshape([more, 1, inner, columns])).sum(2);
}

/** M networks side by side, one tanh layer each: x (1 or M, B, F) -> logits (M, B, K). */
function tanhNetworks([w0, b0, w1, b1], x) {
  const hidden = np.tanh(product(x, w0).add(b0));
  return product(hidden, w1).add(b1);
}

/** Mean cross entropy over the batch, summed over networks side by side: logits and y (..., B, K). */
function crossEntropy(logits, y) {
  const batch = logits.shape[logits.shape.length - 2];
  return nn.logSoftmax(logits).mul(y).sum().mul(-1 / batch);
}

/** Each column of x (N, out) with mean 0 and variance 1 over the batch, times its scale, plus its bias; then
 * leaky ReLU. */
function normalized(x, scale, bias) {
  const centred = x.ref.sub(np.mean(x, 0, { keepdims: true }));
  const variance = np.mean(np.square(centred.ref), 0, { keepdims: true });
  const unit = centred.mul(scale.div(np.sqrt(variance.add(EPS))));
  return nn.leakyRelu(unit.add(bias), SLOPE);
}

/** 784-h-10: x (N, 784) -> logits (N, 10). */
function denseNetwork([w0, scale, b0, w1, b1], x) {
  return np.matmul(normalized(np.matmul(x, w0), scale, b0), w1).add(b1);
}

// A 3x3 convolution and the 2x2 average pooling after it are both linear: together, a 4x4 convolution that
// moves by two pixels. Its 16 places, each a sum of the kernel's nine, in the order in which `places` lists
// them: blocks of 2x2 pixels, and the pixels of a block.
const PLACES = [0, 1].flatMap((i) => [0, 1].flatMap((j) => [0, 1].flatMap((a) => [0, 1].map(
  (b) => [2 * i + a, 2 * j + b]))));

function spread() {
  const matrix = new Float32Array(16 * 9);
  PLACES.forEach(([row, column], place) => {
    for (let tap = 0; tap < 9; tap++) {
      const down = row - Math.floor(tap / 3);
      const right = column - (tap % 3);
      const inside = down >= 0 && down < 2 && right >= 0 && right < 2;
      matrix[9 * place + tap] = inside ? 0.25 : 0;
    }
  });
  return array(matrix, 16, 9);
}

/** The kernel (9, in, out) of a 3x3 convolution -> (16 in, out), with the pooling. */
function pooledKernel(kernel) {
  const [, from, to] = kernel.shape;
  return np.matmul(spread(), kernel.reshape([9, from * to])).reshape([16 * from, to]);
}

/** x (N, S, S, C) -> (N (S/2)^2, 16 C): what the 4x4 convolution sees at each of its positions. */
function places(x) {
  const [n, size, , channels] = x.shape;
  const half = size / 2;
  const padded = np.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]);
  const blocks = padded.reshape([n, half + 1, 2, half + 1, 2, channels]).transpose([0, 1, 3, 2, 4, 5])
    .reshape([n, half + 1, half + 1, 4 * channels]);
  const parts = [0, 1].flatMap((i) => [0, 1].map(
    (j) => blocks.ref.slice([], [i, i + half], [j, j + half], [])));
  blocks.dispose();
  return np.concatenate(parts, 3).reshape([n * half * half, 16 * channels]);
}

/** Two convolutions with average pooling, then a dense layer: the places of images (N 14 14, 16) -> logits
 * (N, 10). The dense layer's inputs are ordered by row, column, channel. */
function convNetwork([k1, s1, b1, k2, s2, b2, w3, s3, b3, w4, b4], x) {
  const n = x.shape[0] / 196;
  const channels = k1.shape[2];
  const first = normalized(np.matmul(x, pooledKernel(k1)), s1, b1).reshape([n, 14, 14, channels]);
  const second = normalized(np.matmul(places(first), pooledKernel(k2)), s2, b2).reshape([n, w3.shape[0]]);
  return np.matmul(normalized(np.matmul(second, w3), s3, b3), w4).add(b4);
}

/** Fresh weights of a layer and its normalization: normal with variance 2 / fan-in (He et al. 2015), scales
 * 1, biases 0. `from` are the sizes of all axes but the last. */
function freshLayer(random, from, to, withScale) {
  const fanIn = from.reduce((a, b) => a * b, 1);
  const weight = array(drawn(fanIn * to, () => Math.sqrt(2 / fanIn) * normal(random)), ...from, to);
  const bias = np.zeros([1, to]);
  return withScale ? [weight, np.ones([1, to]), bias] : [weight, bias];
}

/** The networks that read digits: fresh weights, logits, and images (N 784) in the shape that the network
 * takes. */
const READERS = {
  conv: {
    logits: convNetwork,
    fresh: (random) => [
      ...freshLayer(random, [9, 1], 8, true),
      ...freshLayer(random, [9, 8], 16, true),
      ...freshLayer(random, [784], 32, true),
      ...freshLayer(random, [32], 10, false),
    ],
    input: (images, n) => places(array(images, n, 28, 28, 1)),
  },
  dense: {
    logits: denseNetwork,
    fresh: (random) => [
      ...freshLayer(random, [784], 128, true),
      ...freshLayer(random, [128], 10, false),
    ],
    input: (images, n) => array(images, n, 784),
  },
};
