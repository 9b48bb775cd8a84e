"""The methods by name: the peers, minigtn's adjoints, and the teachers alone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch
from common import adjoints
from peers import PEERS, plain_teacher
from problem import Config, Problem
from torch import Tensor

import minigtn
from minigtn import Adjoint, Checkpointed
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Learner
from minigtn.teaching.generator import generate_whole

COMPILED = "minigtn Checkpointed(compile)"

Method = Callable[[Problem], None]
Whole = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True)
class LearnerLoss:
    """Equal for equal learners, so that what was captured or compiled for one outer step serves the next."""

    learner: Learner
    compute: torch.dtype | None = None
    """The learner's own arithmetic, where it is not that of the weights; its logits go back to theirs."""

    def __call__(self, params: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        if self.compute is None:
            return cross_entropy(self.learner(params, x), y)
        logits = self.learner({name: p.to(self.compute) for name, p in params.items()}, x.to(self.compute))
        return cross_entropy(logits.to(x.dtype), y)


def with_adjoint(adjoint: Adjoint, compute: torch.dtype | None = None, whole: Whole | None = None) -> Method:
    """One outer step by that adjoint; ``whole``, a compiled generator, serves where there are GPUs."""

    def method(problem: Problem) -> None:
        loss = LearnerLoss(problem.learner, compute)
        problem.teacher.whole = whole
        x, y, lr, momentum, _ = problem.teacher()
        problem.teacher.whole = None
        trained = minigtn.sgd(loss, problem.params, (x, y), lr, momentum, adjoint)
        loss(trained, (problem.real_x, problem.real_y)).backward()

    return method


def teacher_alone(make: Callable[[Problem], tuple[Tensor, ...]]) -> Method:
    """The share that is not the inner loop: images, lr and momentum there and back."""

    def method(problem: Problem) -> None:
        x, _, lr, momentum = make(problem)
        torch.autograd.backward(
            [x, lr, momentum], [torch.ones_like(x), torch.ones_like(lr), torch.ones_like(momentum)]
        )

    return method


TEACHERS = {
    "(plain teacher alone)": teacher_alone(plain_teacher),
    "(minigtn teacher alone)": teacher_alone(lambda problem: problem.teacher()[:4]),
}


def compiles() -> bool:
    """Whether this minigtn has ``Checkpointed(compile=True)``."""
    return "compile" in {field.name for field in dataclasses.fields(Checkpointed)}


def methods(config: Config) -> dict[str, Method]:
    """All that run in this process, by name; JAX is apart."""
    cuda = config.device == "cuda"
    ours = {f"minigtn {name}": with_adjoint(adjoint) for name, adjoint in adjoints(config.steps).items()}
    if cuda:
        ours["minigtn Checkpointed(graphs)"] = with_adjoint(Checkpointed(graphs=True))
    if compiles():
        whole = torch.compile(generate_whole, fullgraph=True, dynamic=False) if cuda else None
        ours[COMPILED] = with_adjoint(Checkpointed(graphs=cuda, compile=True), whole=whole)
    return PEERS | ours | TEACHERS


@contextlib.contextmanager
def as_its_user(name: str) -> Iterator[None]:
    """Peers run without deterministic kernels, which cost time on CUDA and which they do not need."""
    kept = torch.are_deterministic_algorithms_enabled()
    if name in PEERS or name == "(plain teacher alone)":
        torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(kept, warn_only=True)
