"""The small training runs that the gradients are proved on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minigtn.inner.adjoints import Adjoint
from minigtn.inner.optimizers import SGD, Adam, Optimizer
from minigtn.inner.training import Params, Readout, sgd
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Learner, LearnerConfig

Logits = Callable[[Params, Tensor], Tensor]
"""(weights, images) -> logits (N, K)."""
MOMENTA = (0.5, 0.9, 0.75, 0.25)
"""Fractions n/d, so that Reversible applies just these."""


@dataclass(frozen=True)
class Problem:
    """A small training run and a meta-loss that depends on all that went in: trained weights, readouts, data,
    step sizes."""

    name: str
    network: Logits
    shapes: dict[str, torch.Size]
    """Of the learner's weights, by name."""
    inputs: dict[str, Tensor]
    """What the meta-loss is differentiated by: weights (P,), images (T, B, C, H, W), labels (T, B, K), lr
    (T,), momentum (T,), and with readouts also real images (n, N, C, H, W)."""
    test: tuple[Tensor, Tensor]
    """Images (N, C, H, W) and class numbers (N,) that the trained learner is judged by; the class numbers
    serve each readout too."""
    every: int | None
    """Inner steps between readouts; None for no readouts."""
    optimizer: Optimizer = SGD()  # noqa: RUF009 (frozen)

    @property
    def steps(self) -> int:
        return len(self.inputs["lr"])

    def unflatten(self, w: Tensor) -> Params:
        parts = w.split([shape.numel() for shape in self.shapes.values()])
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def loss(self, params: Params, batch: Sequence[Tensor]) -> Tensor:
        return cross_entropy(self.network(params, batch[0]), batch[1])

    def meta_loss(self, adjoint: Adjoint, inputs: Mapping[str, Tensor]) -> Tensor:
        """Test loss of the trained learner, plus the readouts, each with another weight."""
        readout = None
        if self.every is not None:
            n = len(inputs["real images"])
            readout = Readout(self.loss, (inputs["real images"], self.test[1].expand(n, -1)), self.every)
        result = sgd(
            self.loss,
            self.unflatten(inputs["weights"]),
            (inputs["images"], inputs["labels"]),
            inputs["lr"],
            inputs["momentum"],
            adjoint,
            readout,
            self.optimizer,
        )
        trained, losses = (result, inputs["lr"][:0]) if readout is None else result
        return self.loss(trained, self.test) + (losses * torch.arange(1, len(losses) + 1).to(losses)).sum()

    def gradients(self, adjoint: Adjoint) -> dict[str, Tensor]:
        """The meta-gradient with respect to every input."""
        leaves = {name: x.clone().requires_grad_() for name, x in self.inputs.items()}
        return dict(
            zip(
                leaves,
                torch.autograd.grad(self.meta_loss(adjoint, leaves), list(leaves.values())),
                strict=True,
            )
        )

    def to(self, dtype: torch.dtype, device: torch.device | str) -> Problem:
        """The same numbers elsewhere."""
        return dataclasses.replace(
            self,
            inputs={name: x.to(device, dtype) for name, x in self.inputs.items()},
            test=(self.test[0].to(device, dtype), self.test[1].to(device)),
        )


def make_problem(
    name: str,
    network: Logits,
    params: Params,
    image_shape: tuple[int, ...],
    *,
    steps: int = 7,
    every: int | None = 3,
    batch: int = 5,
    classes: int = 3,
    seed: int = 1,
) -> Problem:
    """A problem in float64 whose data are drawn from ``seed``: soft labels, and a different lr and momentum
    at each step."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    w = torch.cat([p.reshape(-1) for p in params.values()]).double()
    inputs = {
        "weights": w + 0.1 * normal(len(w)),  # not the zeros and ones of a fresh learner
        "images": normal(steps, batch, *image_shape),
        "labels": normal(steps, batch, classes).softmax(-1),
        "lr": torch.linspace(0.2, 0.1, steps, dtype=torch.float64),
        "momentum": torch.tensor([MOMENTA[t % len(MOMENTA)] for t in range(steps)], dtype=torch.float64),
    }
    if every is not None:
        inputs["real images"] = normal(math.ceil(steps / every), 6, *image_shape)
    test = normal(6, *image_shape), torch.arange(6) % classes
    return Problem(name, network, {name: p.shape for name, p in params.items()}, inputs, test, every)


def learner_problem(name: str, *, steps: int = 7, every: int | None = 3) -> Problem:
    """``dense``: one hidden layer. ``conv``: two weight-normalized convolutions with mean-only normalization,
    and a dense layer."""
    configs = {
        "dense": LearnerConfig(channels=(), pool_after=(), hidden=(6,), norm="none", weight_norm=False),
        "conv": LearnerConfig(channels=(3, 4), pool_after=(1, 2), hidden=(5,)),
    }
    learner = Learner(configs[name], (2, 6, 6), n_classes=3)
    return make_problem(
        name, learner, learner.init(0, dtype=torch.float64), learner.image_shape, steps=steps, every=every
    )


def adam_problem() -> Problem:
    """``adam``: the dense problem, with steps of Adam in place of SGD. A large eps, since central differences
    need a smooth run, and with a small one each step nearly jumps where a gradient passes zero."""
    problem = learner_problem("dense")
    lr = {"lr": problem.inputs["lr"] / 10}
    return dataclasses.replace(problem, name="adam", inputs=problem.inputs | lr, optimizer=Adam(eps=0.1))


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """``max|found - expected| / max|expected|``; infinite where a NaN or another shape makes that
    meaningless."""
    if torch.equal(found, expected):
        return 0.0
    if found.shape != expected.shape:
        return math.inf
    ratio = float((found - expected).abs().max() / expected.abs().max())
    return ratio if ratio >= 0 else math.inf
