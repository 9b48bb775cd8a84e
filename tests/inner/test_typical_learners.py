"""Learners as people have them: whatever the adjoint, threads and dtype, the meta-gradient is that of
``Unrolled``, or the run is refused in one sentence before its first step."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import weight_norm

import minigtn
from minigtn import Checkpointed, Readout, Reversible, Unrolled
from minigtn.studies.check import REVERSIBLE_TOLERANCE, TOLERANCE, float32_tolerance

STEPS = 3
BATCH = 5
CLASSES = 3
VECTOR = (6,)
IMAGE = (2, 8, 8)
SEQUENCE = (4, 6)
TOKENS = (5,)
VOCABULARY = 7


class Block(nn.Module):
    """A residual block whose normalization is ``norm(channels)``."""

    def __init__(self, norm, channels=4):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), norm(channels))
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), norm(channels))

    def forward(self, x):
        return F.relu(x + self.second(F.relu(self.first(x))))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, 2, 1),
            nn.SiLU(),
            nn.Conv2d(2, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return x * self.layers(x)


class Recurrent(nn.Module):
    """A recurrent layer over (B, L, F), and a head on its last output."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


class Cells(nn.Module):
    """The same, step by step."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        state = None
        for part in x.unbind(1):
            state = self.cell(part, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Attention(nn.Module):
    """One encoder layer; ``kernels``: those that attention may choose from."""

    def __init__(self, layer, kernels=(SDPBackend.MATH,)):
        super().__init__()
        self.layer = layer
        self.kernels = list(kernels)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        with sdpa_kernel(self.kernels):
            return self.head(self.layer(x).mean(1))


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


def mlp(activation, width=8):
    return nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(width, CLASSES))


def convnet(norm, pool, activation):
    layers = [nn.Conv2d(2, 4, 3, padding=1), norm(4), activation, pool(2)]
    layers += [nn.Conv2d(4, 4, 3, padding=1), norm(4), activation, pool(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, CLASSES))


def resnet(norm):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        Block(norm),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def efficient(activation, gate):
    return nn.Sequential(
        nn.Conv2d(2, 4, 1), batch_norm(4), activation, nn.Conv2d(4, 4, 3, padding=1, groups=4), batch_norm(4),
        activation, gate(4), nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES),
    )  # fmt: skip


def batch_norm(channels):
    return nn.BatchNorm2d(channels, track_running_stats=False)


def instance_norm(channels):
    return nn.GroupNorm(channels, channels)


def text(*first, width):
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(width, CLASSES))


def none(channels):
    return nn.Identity()


def group_norm(channels):
    return nn.GroupNorm(2, channels)


def encoder(**settings):
    return nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True, **settings)


def conv1d():
    body = nn.Flatten(), nn.Unflatten(1, (4, 5)), nn.Conv1d(4, 4, 3), nn.ReLU()
    return text(nn.Embedding(VOCABULARY, 4), *body, width=12)


LEARNERS = {
    "linear": (lambda: nn.Linear(6, CLASSES), VECTOR),
    "tanh": (lambda: mlp(nn.Tanh()), VECTOR),
    "ReLU": (lambda: mlp(nn.ReLU()), VECTOR),
    "GELU": (lambda: mlp(nn.GELU()), VECTOR),
    "SiLU": (lambda: mlp(nn.SiLU()), VECTOR),
    "Mish": (lambda: mlp(nn.Mish()), VECTOR),
    "ELU": (lambda: mlp(nn.ELU()), VECTOR),
    "softplus": (lambda: mlp(nn.Softplus()), VECTOR),
    "PReLU": (lambda: mlp(nn.PReLU()), VECTOR),
    "GLU": (lambda: mlp(nn.GLU(), 4), VECTOR),
    "hardswish": (lambda: mlp(nn.Hardswish()), VECTOR),
    "LayerNorm": (lambda: mlp(nn.Sequential(nn.LayerNorm(8), nn.GELU())), VECTOR),
    "RMSNorm": (lambda: mlp(nn.Sequential(nn.RMSNorm(8), nn.GELU())), VECTOR),
    "BatchNorm1d": (lambda: mlp(nn.Sequential(nn.BatchNorm1d(8), nn.ReLU())), VECTOR),
    "dropout": (lambda: mlp(nn.Sequential(nn.ReLU(), nn.Dropout(0.3))), VECTOR),
    "weight_norm": (lambda: mlp(nn.Sequential(nn.ReLU(), weight_norm(nn.Linear(8, 8)), nn.ReLU())), VECTOR),
    "LeNet": (lambda: convnet(none, nn.AvgPool2d, nn.Tanh()), IMAGE),
    "LeNet with max pooling": (lambda: convnet(none, nn.MaxPool2d, nn.ReLU()), IMAGE),
    "ConvNet with GroupNorm": (lambda: convnet(group_norm, nn.AvgPool2d, nn.ReLU()), IMAGE),
    "ConvNet with instance norm": (lambda: convnet(instance_norm, nn.AvgPool2d, nn.ReLU()), IMAGE),
    "ResNet": (lambda: resnet(none), IMAGE),
    "ResNet with BatchNorm": (lambda: resnet(batch_norm), IMAGE),
    "ResNet with GroupNorm": (lambda: resnet(group_norm), IMAGE),
    "ResNet with InstanceNorm": (lambda: resnet(nn.InstanceNorm2d), IMAGE),
    "ResNet with LayerNorm": (lambda: resnet(lambda c: nn.LayerNorm((c, 8, 8))), IMAGE),
    "EfficientNet": (lambda: efficient(nn.SiLU(), Gate), IMAGE),
    "MobileNet": (lambda: efficient(nn.ReLU6(), none), IMAGE),
    "RNN": (lambda: Recurrent(nn.RNN(6, 4, batch_first=True)), SEQUENCE),
    "LSTM": (lambda: Recurrent(nn.LSTM(6, 4, batch_first=True)), SEQUENCE),
    "GRU": (lambda: Recurrent(nn.GRU(6, 4, batch_first=True)), SEQUENCE),
    "LSTM cell": (lambda: Cells(nn.LSTMCell(6, 4)), SEQUENCE),
    "GRU cell": (lambda: Cells(nn.GRUCell(6, 4)), SEQUENCE),
    "attention": (lambda: Attention(SelfAttention()), SEQUENCE),
    "transformer": (lambda: Attention(encoder()), SEQUENCE),
    "transformer, norm first": (lambda: Attention(encoder(norm_first=True, activation="gelu")), SEQUENCE),
    "embedding": (lambda: text(nn.Embedding(VOCABULARY, 4), width=20), TOKENS),
    "text ConvNet": (conv1d, TOKENS),
    "flash attention": (lambda: Attention(SelfAttention(), SDPBackend.__members__.values()), SEQUENCE),
    "sparse embedding": (lambda: text(nn.Embedding(VOCABULARY, 4, sparse=True), width=20), TOKENS),
    "EmbeddingBag": (lambda: nn.Sequential(nn.EmbeddingBag(VOCABULARY, CLASSES)), TOKENS),
}  # fmt: skip
REFUSED = {
    "flash attention": r"cannot be differentiated twice.*sdpa_kernel\(SDPBackend.MATH\)",
    "sparse embedding": "sparse gradients.*use sparse=False",
    "EmbeddingBag": "cannot be differentiated twice",
}


class Run:
    """A training run of one of the learners, and a meta-loss that depends on all that went in."""

    def __init__(self, name, dtype):
        make, shape = LEARNERS[name]
        torch.manual_seed(1)
        self.module = make().to(dtype)
        self.calls = 0

        def data(n, size):
            if shape == TOKENS:
                return torch.randint(VOCABULARY, (n, size, *shape))
            return torch.randn(n, size, *shape, dtype=torch.float64).to(dtype)

        y = torch.arange(BATCH) % CLASSES
        self.x = data(STEPS, BATCH)
        self.y = y.expand(STEPS, BATCH)
        self.real = (data(2, BATCH), y.expand(2, BATCH))
        self.lr = torch.tensor([0.3, 0.2, 0.25], dtype=dtype)
        self.momentum = torch.tensor([0.5, 0.75, 0.5], dtype=dtype)

    def loss(self, params, batch):
        self.calls += 1
        return F.cross_entropy(torch.func.functional_call(self.module, params, (batch[0],)), batch[1])

    def gradients(self, adjoint):
        """By weights, images (where there are any), lr and momentum."""
        torch.manual_seed(2)
        params = {name: p.detach().clone().requires_grad_() for name, p in self.module.named_parameters()}
        leaves = [self.x, self.lr, self.momentum] if self.x.is_floating_point() else [self.lr, self.momentum]
        leaves = [x.clone().requires_grad_() for x in leaves]
        x = leaves[0] if self.x.is_floating_point() else self.x
        *_, lr, momentum = leaves
        trained, readings = minigtn.sgd(
            self.loss, params, (x, self.y), lr, momentum, adjoint, Readout(self.loss, self.real, 2)
        )
        value = readings.sum() + sum(w.square().sum() for w in trained.values())
        return torch.autograd.grad(value, [*params.values(), *leaves])


@cache
def unrolled(name, dtype):
    return Run(name, dtype).gradients(Unrolled())


def assert_agrees(name, dtype, adjoint):
    expected = unrolled(name, dtype)
    assert all(d.abs().max() > 0 for d in expected[-2:])
    exact = REVERSIBLE_TOLERANCE if adjoint == Reversible() else TOLERANCE
    allowed = exact if dtype == torch.float64 else float32_tolerance(STEPS)
    noise = 1e-3 * max(d.abs().max() for d in expected)  # of what is zero but for rounding
    for found, d in zip(Run(name, dtype).gradients(adjoint), expected, strict=True):
        assert (found - d).abs().max() < allowed * max(d.abs().max(), noise), adjoint


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in REFUSED])
def test_every_adjoint_agrees_with_unrolling(name, dtype):
    for adjoint in (Checkpointed(), Checkpointed(2), Reversible()):
        assert_agrees(name, dtype, adjoint)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in REFUSED])
def test_reversible_returns_with_two_threads(name, dtype):
    """Bits must repeat."""
    unrolled(name, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_agrees(name, dtype, Reversible())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("adjoint", [Unrolled(), Checkpointed(), Checkpointed(2), Reversible()], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", REFUSED)
def test_or_the_run_is_refused_before_its_first_step(name, dtype, adjoint):
    run = Run(name, dtype)
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        run.gradients(adjoint)
    assert "\n" not in str(error.value)
    assert run.calls == 1


def test_there_are_many():
    assert len(LEARNERS) - len(REFUSED) >= 32
