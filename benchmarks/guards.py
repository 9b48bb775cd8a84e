"""What the guards cost: an outer step with ``checks=True`` beside the same with ``checks=False``.

    python benchmarks/guards.py --size M --out benchmarks/records/<date>_guards

The problem is that of ``meta_gradient.py``; "dense" is a learner 784-64-10 (T = 32, batches of 64) without a
generator, whose weights are many for what a step computes. The two take turns, round after round, in an order
that changes from round to round; the table gives the median of the ratios of each round, of processor time.
Both must give the same bits. A busy machine moves these ratios by more than the guards do, so the processor
time spent inside of the guards is counted, too: "share" is its part of the whole (without what a first look
at :class:`minigtn.Reversible` takes, one gradient of T).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import adjoints, min_max
from methods import LearnerLoss
from problem import SIZES, Config, Problem

import minigtn
from minigtn.inner.again import Again
from minigtn.inner.guards import _FirstCall
from minigtn.runs.devices import choose
from minigtn.runs.files import environment, write_json

GUARDS: list[tuple[type, str]] = [
    (_FirstCall, "_look"),
    (Again, "expect"),
    (Again, "saw"),
    (Again, "reading"),
]
DENSE = Config((), 64, batch=64, steps=32, pool_after=(), pixels=True)


def outer_step(problem: Problem, adjoint: minigtn.Adjoint, checks: bool) -> list[torch.Tensor]:
    """The gradient of one outer step."""

    def method(problem: Problem) -> None:
        loss = LearnerLoss(problem.learner)
        x, y, lr, momentum, _ = problem.teacher()
        trained = minigtn.sgd(loss, problem.params, (x, y), lr, momentum, adjoint, checks=checks)
        loss(trained, (problem.real_x, problem.real_y)).backward()

    return list(problem.gradient(method).values())


def seconds(problem: Problem, adjoint: minigtn.Adjoint, checks: bool) -> float:
    start = time.process_time()
    outer_step(problem, adjoint, checks)
    return time.process_time() - start


class Counted:
    """Processor seconds spent inside of the guards while this context is open."""

    def __enter__(self) -> Counted:
        self.seconds = 0.0
        self._undo = [(kind, name, getattr(kind, name)) for kind, name in GUARDS]
        for kind, name, method in self._undo:
            setattr(kind, name, self._timed(method))
        return self

    def __exit__(self, *error: object) -> None:
        for kind, name, method in self._undo:
            setattr(kind, name, method)

    def _timed(self, method: Callable) -> Callable:
        def timed(*args):
            start = time.process_time()
            result = method(*args)
            self.seconds += time.process_time() - start
            return result

        return timed


def measure(name: str, problem: Problem, adjoint: minigtn.Adjoint, rounds: int) -> dict:
    """Seconds of both, and their ratios by round."""
    both = [outer_step(problem, adjoint, checks) for checks in (True, False)]
    if not all(torch.equal(a, b) for a, b in zip(*both, strict=True)):
        raise SystemExit(f"{name}: the checks change the gradient; nothing was timed")
    samples: dict[bool, list[float]] = {True: [], False: []}
    for i in range(rounds):
        for checks in (True, False) if i % 2 else (False, True):
            samples[checks].append(seconds(problem, adjoint, checks))
    shares = []
    for _ in range(rounds):
        with Counted() as inside:
            whole = seconds(problem, adjoint, True)
        shares.append(inside.seconds / whole)
    ratios = [a / b for a, b in zip(samples[True], samples[False], strict=True)]
    return {
        "adjoint": name,
        "seconds": {str(checks): statistics.median(values) for checks, values in samples.items()},
        "seconds_min_max": {str(checks): min_max(values) for checks, values in samples.items()},
        "ratio": statistics.median(ratios),
        "ratio_min_max": min_max(ratios),
        "share": statistics.median(shares),
        "share_min_max": min_max(shares),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "S", "M", "dense"), default="M", help="tiny: for CI")
    parser.add_argument("--out", type=Path, required=True, help="folder for guards_<size>.json")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each, in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="anything about the machine that a reader should know")
    args = parser.parse_args()
    device = choose("cpu", args.threads)
    rounds = 2 if args.size == "tiny" else args.rounds
    config = DENSE if args.size == "dense" else SIZES[args.size]
    problem = Problem(config)
    heads = f"{'adjoint':<22}{'checks':>9}{'without':>9}{'share':>7}{'ratio':>7} (min-max)"
    print(f"{heads} [seconds; medians of {rounds}]")
    rows = []
    for name, adjoint in adjoints(config.steps).items():
        row = measure(name, problem, adjoint, rounds)
        low, high = row["ratio_min_max"]
        on, off = row["seconds"].values()
        share = f"{row['share']:.2%}"
        print(
            f"{name:<22}{on:>9.3f}{off:>9.3f}{share:>7}{row['ratio']:>7.3f} ({low:.3f}-{high:.3f})",
            flush=True,
        )
        rows.append(row)
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"size": args.size, "rounds": rounds, "threads": args.threads, "note": args.note}
    write_json(args.out / f"guards_{args.size}.json", record | environment(device) | {"rows": rows})


if __name__ == "__main__":
    main()
