"""Meta-training: many outer steps, each a step of Adam for the teacher, until its images teach.

Source: Such et al. 2019 (arXiv 1912.07768), on the 8 x 8 digits of scikit-learn, with autograd's Adam.
Departures: one small dense learner (64 - 32 - 10), the meta-loss is read after the last inner step only,
Adam's step size is constant. ``README.md`` tells how the settings were chosen.

``theta`` is that of ``gtn``. No seed is used twice: ``[seed, 0]`` draws the teacher and what it meets in
meta-training, ``[seed, 1, i]`` the i-th fresh learner, which judges it.
"""

from collections.abc import Callable

import numpy as np
from autograd.misc.optimizers import adam

from reference.gtn import curriculum, fixed_labels, meta_gradient, teaching_loss
from reference.layers import Array, Layout, Params, learner
from reference.sgd import forward

SIZE = (8, 8)  # height and width of an image
T = 10  # inner steps
B = 10  # images per step
K = 10  # classes
LABELS = fixed_labels(T, B, K)  # one image of each class in every step
Data = tuple[Array, Array]  # images x (N, 1, 8, 8) and their classes y (N, 10), one-hot; float64


def load_data() -> list[Data]:
    """1,000 digits to meta-train on, 297 to choose settings by, 500 to test with; all standardized alike.

    Carved as ``minigtn.data`` does: sorted by raw random bits, which are the same in all versions of NumPy.
    """
    from sklearn.datasets import load_digits  # late: it takes a second

    pixels, classes = load_digits(return_X_y=True)
    order = np.argsort(np.random.PCG64(20201).random_raw(len(classes)), kind="stable")
    rest = order[:-500]
    rest = rest[np.argsort(np.random.PCG64(20200).random_raw(len(rest)), kind="stable")]
    seen = pixels[rest[:1000]]
    x = np.reshape((pixels - seen.mean()) / seen.std(), (-1, 1, *SIZE))
    return [(x[part], np.eye(K)[classes[part]]) for part in (rest[:1000], rest[1000:], order[-500:])]


def new_weights(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """For each layer normal weights of variance 1 / (inputs per output), and biases of zero."""
    params = {}
    for layer, shape in shapes.items():
        params[f"{layer}.weight"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        params[f"{layer}.bias"] = np.zeros(shape[0])
    return params


def new_learner(rng: np.random.Generator) -> dict[str, Array]:
    return new_weights(rng, {"dense1": (32, SIZE[0] * SIZE[1]), "head": (K, 32)})


def new_teacher(rng: np.random.Generator) -> dict[str, Array]:
    """The theta of a teacher that knows nothing. Its learning rates are near 0.3, its momenta near 0.5."""
    shapes = {"dense1": (32, 16 + K), "dense2": (8 * 2 * 2, 32), "conv1": (4, 8, 3, 3), "conv2": (1, 4, 3, 3)}
    theta = new_weights(rng, shapes)
    for layer in ("dense1", "dense2", "conv1"):
        theta[f"{layer}.norm_scale"] = np.ones(shapes[layer][0])
    return theta | {"z": rng.normal(size=(T, B, 16)), "lr_raw": np.full(T, 0.85), "momentum_raw": np.zeros(T)}


def meta_train(seed: int, outer_steps: int, real: Data, tell: Callable[[int, float, Params], None]) -> Params:
    """The theta that ``outer_steps`` steps of Adam make, each for a new learner and 100 images of ``real``.

    ``tell(i, meta_loss, theta)`` hears of outer step i = 0, 1, ...: the meta-loss, and the theta that
    had it. Time: that many meta-gradients. The same seed gives the same bits on the same machine.
    """
    rng = np.random.default_rng([seed, 0])

    def d_theta_at(theta: Params, i: int) -> dict[str, Array]:
        chosen = rng.integers(len(real[0]), size=100)
        batch = (real[0][chosen], real[1][chosen])
        meta_loss, d_theta = meta_gradient(theta, new_learner(rng), [batch], LABELS)
        tell(i, meta_loss, theta)
        return d_theta

    return adam(d_theta_at, new_teacher(rng), num_iters=outer_steps, step_size=0.02)


def accuracy(theta: Params, w0: Params, real: Data) -> float:
    """The part of ``real`` that the learner which starts at ``w0`` reads rightly after its training."""
    x, lr, momentum = curriculum(theta, LABELS, SIZE)
    layout = Layout.of(w0)

    def part_right(w: Array) -> float:
        logits = learner(layout.unflatten(w), real[0])
        return np.mean(np.argmax(logits, axis=1) == np.argmax(real[1], axis=1))

    batches = list(zip(x, LABELS, strict=True))
    run = forward(teaching_loss(layout), layout.flatten(w0), batches, lr, momentum, {T: part_right})
    return run.meta_loss  # a readout may be any number: here it is no loss


def accuracies(theta: Params, seed: int, n: int, real: Data) -> Array:
    """(n,): the accuracies of n fresh learners."""
    rngs = [np.random.default_rng([seed, 1, i]) for i in range(n)]
    return np.array([accuracy(theta, new_learner(rng), real) for rng in rngs])
