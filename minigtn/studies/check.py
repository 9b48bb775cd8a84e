"""``minigtn check``: the proof, on your own machine, that every adjoint returns the gradient of the training
that really happened.

Four questions, each on small learners, in seconds:

1. Is ``Unrolled`` right? Against central differences of the meta-loss along random directions, in float64. 2.
Do the others agree with it? Entry by entry, for every input, in float64. They share no code with ``Unrolled``
on the way back. 3. Does ``Reversible`` come back exactly? A thousand steps there and back, bit for bit, and
what that stored. 4. What does float32 cost on this device? Its gradients against those in float64 on the CPU.

A check that cannot fail proves nothing: tests/test_checkers.py breaks each gradient by a thousandth, and then
one entry of it alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from minigtn.inner.adjoints import Adjoint, Checkpointed, Reversible, Unrolled
from minigtn.inner.fixed_point import FixedPointOverflow, FixedPointState, bits_per_step, rational_momentum
from minigtn.inner.optimizers import SGD
from minigtn.inner.step import gradient
from minigtn.studies.agent_problem import agent_problem
from minigtn.studies.problems import Problem, adam_problem, learner_problem, relative_difference

ADJOINTS: dict[str, Adjoint] = {
    "Unrolled": Unrolled(),
    "Checkpointed(1)": Checkpointed(),
    "Checkpointed(3)": Checkpointed(3),
    "Reversible": Reversible(),
}
DIFFERENCE_STEP = 1e-5
DIFFERENCE_TOLERANCE = 1e-6
"""Central differences: truncation about step**2, rounding about 1e-16 / step, both relative; a hundred times
that."""
TOLERANCE = 1e-9
REVERSIBLE_TOLERANCE = 1e-7
"""Reversible follows its own trajectory, which its fixed point rounds differently."""


def float32_tolerance(steps: int) -> float:
    """Relative difference allowed to float32 gradients of a run of T ``steps``: half an ulp (2**-24) for some
    100 roundings a step."""
    return 100 * steps * 2.0**-24


def central_differences(problem: Problem, name: str, directions: Tensor) -> Tensor:
    """Central differences of the meta-loss by input ``name`` along each of ``directions`` (n, *shape of the
    input): (n,)."""

    def at(shift: Tensor) -> Tensor:
        with torch.no_grad():
            return problem.meta_loss(Unrolled(), {**problem.inputs, name: problem.inputs[name] + shift})

    h = DIFFERENCE_STEP
    return torch.stack([(at(h * u) - at(-h * u)) / (2 * h) for u in directions])


def difference_from_differences(problem: Problem, name: str, d: Tensor) -> float:
    """How far the gradient ``d`` by input ``name`` is from central differences along three random directions,
    relative."""
    rng = torch.Generator().manual_seed(2)
    directions = torch.randn(3, *d.shape, generator=rng, dtype=torch.float64).to(d)
    return relative_difference(
        (directions * d).flatten(1).sum(1), central_differences(problem, name, directions)
    )


def there_and_back(problem: Problem, momentum: float, steps: int) -> tuple[bool, float]:
    """Train reversibly for T ``steps`` on the problem's first batch and return: whether (w0, 0) came back bit
    for bit, and the bits stored per weight and step."""
    w0 = problem.inputs["weights"]
    batch = [problem.inputs["images"][0], problem.inputs["labels"][0]]

    def descend(w: Tensor) -> Tensor:
        return gradient(lambda w, b: problem.loss(problem.unflatten(w), b), w, batch)

    lr = 0.05
    fraction = rational_momentum(momentum)
    state = FixedPointState(w0, "weight {}".format)
    for t in range(steps):
        state.step(t, descend(state.w), lr, *fraction)
    bits = 8 * state.buffer.nbytes / (len(w0) * steps)
    for _ in range(steps):
        state.back_weights(lr)
        state.back_velocity(descend(state.w), *fraction)
    return state.is_at(w0), bits


class _Table:
    """Prints each result as it comes, and remembers whether all of them passed."""

    def __init__(self) -> None:
        self.passed = True

    def heading(self, text: str) -> None:
        heads = f"{'method':<17}{'problem':<9}{'input':<13}{'agreement':<13}{'difference':>10}{'allowed':>10}"
        print(f"\n{text}\n{heads}")

    def row(self, method: str, problem: str, name: str, difference: float, allowed: float) -> None:
        passed = difference <= allowed
        agreement = "exact" if difference == 0 else "approximate" if passed else "wrong"
        print(
            f"{method:<17}{problem:<9}{name:<13}{agreement:<13}{difference:>10.1e}{allowed:>10.1e}  "
            f"{self._verdict(passed)}"
        )

    def returned(self, method: str, momentum: float, exact: bool, bits: float) -> None:
        agreement = "exact" if exact else "wrong"
        print(
            f"{method:<17}{momentum:<22g}{agreement:<13}{bits:>10.4f}{bits_per_step(momentum):>10.4f}  "
            f"{self._verdict(exact)}"
        )

    def skipped(self, method: str, reason: str) -> None:
        print(f"{method:<17}skipped: {reason}")

    def failed(self, method: str, problem: str, error: Exception) -> None:
        print(f"{method:<17}{problem:<9}{type(error).__name__}: {error}  {self._verdict(False)}")

    def _verdict(self, passed: bool) -> str:
        self.passed &= passed
        return "pass" if passed else "FAIL"


def run(device: str = "cpu", adjoints: Mapping[str, Adjoint] = ADJOINTS, steps: int = 1000) -> bool:
    """Print the proof for ``device`` (cpu or cuda); True if everything passed.

    The first of ``adjoints`` is held against central differences and the others against the first; ``steps``
    is the length of the exact return. TF32 is off and kernels are deterministic for the duration. Takes some
    ten seconds.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        print(f"cannot check on {device}: this PyTorch ({torch.__version__}) finds no CUDA device")
        return False
    print(f"minigtn check on {device}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        table = _Table()
        _check_gradients(table, device, adjoints)
        _check_return(table, device, steps)
    print(f"\n{'all checks passed' if table.passed else 'SOME CHECKS FAILED'} on {device}")
    return table.passed


def _check_gradients(table: _Table, device: str, adjoints: Mapping[str, Adjoint]) -> None:
    (first, base), *others = adjoints.items()

    problems = [learner_problem("dense"), learner_problem("conv"), adam_problem(), agent_problem()]
    on_device = [p.to(torch.float64, device) for p in problems]
    expected = [p.gradients(base) for p in on_device]

    table.heading(f"{first} against central differences, float64")
    for problem, gradients in zip(on_device, expected, strict=True):
        for name, d in gradients.items():
            table.row(
                first, problem.name, name, difference_from_differences(problem, name, d), DIFFERENCE_TOLERANCE
            )

    def compare(
        method: str, adjoint: Adjoint, problem: Problem, gradients: Mapping[str, Tensor]
    ) -> dict[str, float]:
        if method == "Reversible" and problem.optimizer != SGD():
            return {}  # refused
        try:
            found = problem.gradients(adjoint)
        except ImportError as error:
            table.skipped(method, str(error))
        except (FixedPointOverflow, RuntimeError) as error:
            table.failed(method, problem.name, error)
        else:
            return {name: relative_difference(found[name].to(d), d) for name, d in gradients.items()}
        return {}

    table.heading(f"the others against {first}, float64")
    for method, adjoint in others:
        for problem, gradients in zip(on_device, expected, strict=True):
            for name, difference in compare(method, adjoint, problem, gradients).items():
                table.row(
                    method,
                    problem.name,
                    name,
                    difference,
                    REVERSIBLE_TOLERANCE if method == "Reversible" else TOLERANCE,
                )

    table.heading(f"float32 on {device} against float64 (the input that differs most)")
    for method, adjoint in adjoints.items():
        for problem, gradients in zip(problems, expected, strict=True):
            found = compare(method, adjoint, problem.to(torch.float32, device), gradients)
            for name in sorted(found, key=found.__getitem__)[-1:]:
                table.row(method, problem.name, name, found[name], float32_tolerance(problem.steps))


def _check_return(table: _Table, device: str, steps: int) -> None:
    print(
        f"\nReversible, {steps:,} steps there and "
        f"back\n{'method':<17}{'momentum':<22}{'return':<13}{'bits':>10}{'log2(1/m)':>10}"
    )
    for momentum in (0.5, 0.9):
        try:
            exact, bits = there_and_back(learner_problem("dense").to(torch.float64, device), momentum, steps)
        except ImportError as error:
            return table.skipped("Reversible", str(error))
        table.returned("Reversible", momentum, exact, bits)
