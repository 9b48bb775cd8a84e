"""``reference`` (NumPy, HIPS autograd) and ``minigtn`` (PyTorch) share no code, and give the same outer step
and the same integers."""

import numpy as np
import pytest
import torch
from autograd import numpy as anp

import reference
from minigtn import Checkpointed, Reversible
from minigtn.inner.fixed_point import FixedPointState, rational_momentum
from minigtn.inner.training import Readout, sgd
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Learner, LearnerConfig
from minigtn.studies.check import float32_tolerance
from minigtn.studies.problems import relative_difference
from minigtn.teaching.teacher import MOMENTUM_MAX, Teacher, TeacherConfig

T = 5
B = 6
K = 3
IMAGE = (1, 8, 8)
LEARNERS = {
    "dense": LearnerConfig(channels=(), pool_after=(), hidden=(6,)),
    "conv": LearnerConfig(channels=(3, 4), pool_after=(1, 2), hidden=(5,)),
    "conv, average pool, batch norm": LearnerConfig(
        channels=(3, 4), pool_after=(1, 2), hidden=(), pool="average", norm="batch"
    ),
}


def outer_step(name: str, every: int, dtype: torch.dtype, device: str):
    """Teacher, learner, its weights and the readout of a tiny GTN outer step; momenta that are fractions
    n/d."""
    teacher = Teacher(
        TeacherConfig(T, B, z_size=4, dense=7, channels=(4, 3), lr=0.1), IMAGE, K, seed=1, dtype=torch.float64
    )
    learner = Learner(LEARNERS[name], IMAGE, K)
    rng = torch.Generator().manual_seed(2)

    def normal(*shape: int):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    with torch.no_grad():
        for theta in teacher.parameters():
            theta += 0.1 * normal(*theta.shape)  # not the zeros and ones of a fresh generator
        for key in ("dense1-gain", "dense2-gain", "conv1-gain"):
            # so small that the epsilon of batch norm counts: else a gain before it has no gradient
            teacher.generator[key] *= 0.01
        fraction = torch.tensor([0.5, 0.9, 0.25, 0.75, 0.5], dtype=torch.float64) / MOMENTUM_MAX
        teacher.momentum_raw.copy_(torch.logit(fraction))
    params = {
        key: (w + 0.1 * normal(*w.shape)).to(device, dtype)
        for key, w in learner.init(3, dtype=torch.float64).items()
    }
    n = -(-T // every)
    real = normal(n, 7, *IMAGE).to(device, dtype), (torch.arange(7) % K).expand(n, -1).to(device)
    return (
        teacher.to(device, dtype),
        learner,
        params,
        Readout(lambda p, b: cross_entropy(learner(p, b[0]), b[1]), real, every),
    )


def taught(name: str, every: int, adjoint, dtype=torch.float64, device="cpu"):
    """Meta-loss and meta-gradients of minigtn, by the reference's names for theta."""
    teacher, _, params, readout = outer_step(name, every, dtype, device)
    x, y, lr, momentum, _ = teacher()
    loss = sgd(readout.loss, params, (x, y), lr, momentum, adjoint, readout)[1].mean()
    loss.backward()
    return loss.item(), {key: theta.grad.cpu().double() for key, theta in named(teacher).items()}


def named(teacher):
    return {
        key.removeprefix("generator.").replace("-", "."): theta for key, theta in teacher.named_parameters()
    }


def referred(name: str, every: int):
    """The same by ``reference``."""
    teacher, learner, params, readout = outer_step(name, every, torch.float64, "cpu")
    theta = {key: value.detach().numpy() for key, value in named(teacher).items()}
    weights = {key: w.numpy() for key, w in params.items()}
    real = [(x.numpy(), np.eye(K)[y.numpy()]) for x, y in zip(*readout.batches, strict=True)]
    config = learner.config
    loss, d_theta = reference.meta_gradient(
        theta, weights, real, teacher.classes.numpy(), every=every, norm=config.norm, pool=config.pool
    )
    return loss, {key: torch.from_numpy(np.asarray(d)) for key, d in d_theta.items()}


@pytest.mark.parametrize("adjoint", [Reversible(), Checkpointed(), Checkpointed(2)], ids=str)
@pytest.mark.parametrize("every", [1, 3, T])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_whole_outer_step(name, every, adjoint):
    (loss, d_theta) = taught(name, every, adjoint)
    (expected_loss, expected) = referred(name, every)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert d_theta.keys() == expected.keys()
    assert {"z", "lr_raw", "momentum_raw", "dense1.direction", "conv2.gain"} <= d_theta.keys()
    for key, d in d_theta.items():
        assert expected[key].abs().max() > 1e-6, key
        assert relative_difference(d, expected[key]) < 1e-9, key


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("adjoint", [Reversible(), Checkpointed()], ids=str)
@pytest.mark.parametrize("name", LEARNERS)
def test_an_outer_step_in_float32(name, adjoint, device):
    """Tolerance: ``float32_tolerance(T)``, ten times as wide for the generator behind it (its batch norms
    divide by small deviations)."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        (loss, d_theta) = taught(name, 3, adjoint, torch.float32, device)
        (expected_loss, expected) = referred(name, 3)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for key, d in d_theta.items():
        assert relative_difference(d, expected[key]) < 10 * float32_tolerance(T), key


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("momenta", [(0.9,), (0.5,), (0.123, 0.98, 0.0, 0.7)], ids=str)
def test_a_thousand_steps_in_the_same_integers(momenta, device):
    """Scale and target are dyadic, so that both sides compute the very same gradient; lr is not, and
    changes."""
    steps = 1000
    rng = np.random.default_rng(0)
    scale = 2.0 ** np.array([0, -1, -2, 1, -3])
    targets = rng.integers(-64, 64, (steps, 5)) / 128
    w0 = rng.integers(-64, 64, 5) / 128
    lr = rng.uniform(0.02, 0.2, steps)
    momentum = np.array([momenta[t % len(momenta)] for t in range(steps)])

    seen = []  # the weights that each step's loss is asked for: |w| < 2, so these floats are the integers

    def loss(w, target):
        seen.append(np.array(getattr(w, "_value", w)))
        return 0.5 * anp.sum(scale * (w - target) ** 2)

    run = reference.forward(loss, w0, list(targets), lr, momentum, {steps: lambda w: anp.sum(w)})

    def descend(t, w):
        return torch.as_tensor(scale, device=device) * (w - torch.as_tensor(targets[t], device=device))

    start = torch.as_tensor(w0, device=device)
    fractions = [rational_momentum(float(m)) for m in momentum]
    state = FixedPointState(start, str)
    for t in range(steps):
        assert np.array_equal(state.w.cpu().numpy(), seen[t]), t
        state.step(t, descend(t, state.w), float(lr[t]), *fractions[t])
    assert np.abs(seen).max() < 2
    assert np.array_equal(integers(state._w), run.w)
    assert np.array_equal(integers(state._v), run.v)
    assert state.buffer.nbytes == run.numbers.buffer.nbytes
    for t in reversed(range(steps)):
        state.back_weights(float(lr[t]))
        assert np.array_equal(state.w.cpu().numpy(), seen[t]), t
        state.back_velocity(descend(t, state.w), *fractions[t])
    assert state.is_at(start)
    reference.reverse(run)  # asserts its own return


def integers(x):
    return x if isinstance(x, np.ndarray) else x.get()
