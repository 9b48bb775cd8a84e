"""Time and peak memory of the three adjoints against the number of inner steps T.

    python benchmarks/long_runs.py --size full --out benchmarks/records/<date>_long_runs

The run is a learning-rate-schedule problem: a dense learner on a fixed set of training images, each batch
given by its indices, momentum 0.9, and a meta-gradient with respect to initial weights, lr (T,) and momentum
(T,). So nothing but the adjoint's own memory grows with T. Every measurement is a fresh process: its peak is
what its memory (resident; on CUDA: of torch's allocator) grows by once two steps have loaded all code, what
they left unused has gone back to the system, and the batches are there. Methods take turns, round after
round. An adjoint whose predicted memory is above the limit is skipped.

Three claims are checked and printed last: twice the steps take twice the time (T = 64 against 32, within 10
%); memory is what ``minigtn.memory_bytes`` predicts (within 20 %); at T = 1,000 ``Reversible`` takes at most
1/30 of the memory of storing every step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from common import MIB, adjoints, forget_peak, memory_bytes, min_max, run_apart
from resident import give_back_memory

import minigtn
from minigtn import Adjoint, Unrolled, saved_bytes
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Learner, LearnerConfig
from minigtn.runs.files import environment, write_json
from minigtn.studies.problems import relative_difference

LINEARITY_ROUNDS = 15


@dataclass(frozen=True)
class Config:
    """What is measured; the defaults are the full size."""

    steps: tuple[int, ...] = (32, 64, 128, 1000, 10_000)
    hidden: int = 64
    batch: int = 64
    images: int = 2000
    noise: float = 10.0
    lr: float = 0.01
    momentum: float = 0.9
    rounds: int = 3
    limit_mib: int = 6000
    device: str = "cpu"


TINY = Config(steps=(4, 8), hidden=8, batch=8, images=50, rounds=1)


class Problem:
    """A dense learner 784 - hidden - 10 on noisy pictures of ten prototypes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        rng = torch.Generator().manual_seed(0)
        self.y = torch.arange(config.images).remainder(10).to(config.device)
        prototypes = torch.randn(10, 1, 28, 28, generator=rng)
        x = prototypes[self.y.cpu()] + config.noise * torch.randn(config.images, 1, 28, 28, generator=rng)
        self.x = (x / math.sqrt(1 + config.noise**2)).to(config.device)
        learner_config = LearnerConfig(
            channels=(), pool_after=(), hidden=(config.hidden,), norm="none", weight_norm=False
        )
        self.learner = Learner(learner_config, (1, 28, 28), 10)
        self.params = self.learner.init(0, device=config.device)
        self.weights = sum(p.numel() for p in self.params.values())

    def loss(self, params, batch):
        return cross_entropy(self.learner(params, self.x[batch[0]]), self.y[batch[0]])

    def predicted_bytes(self, adjoint: Adjoint, steps: int) -> int:
        leaves = {name: p.clone() for name, p in self.params.items()}
        activations = saved_bytes(
            lambda: self.loss(leaves, [torch.arange(self.config.batch)]), list(leaves.values())
        )
        return minigtn.memory_bytes(adjoint, steps, self.weights, activations, momentum=self.config.momentum)

    def batches(self, steps: int) -> torch.Tensor:
        """Which images each step trains on, (T, B)."""
        rng = torch.Generator().manual_seed(1)
        return torch.randint(self.config.images, (steps, self.config.batch), generator=rng).to(
            self.config.device
        )

    def run(self, adjoint: Adjoint, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """One training run there and back: the meta-gradients."""
        steps = len(index)
        params = {name: p.clone().requires_grad_() for name, p in self.params.items()}
        lr = torch.full((steps,), self.config.lr, device=self.config.device, requires_grad=True)
        momentum = torch.full((steps,), self.config.momentum, device=self.config.device, requires_grad=True)
        trained = minigtn.sgd(self.loss, params, (index,), lr, momentum, adjoint)
        self.loss(trained, (torch.arange(self.config.batch),)).backward()
        return {"lr": lr.grad, "momentum": momentum.grad, **{name: p.grad for name, p in params.items()}}


def measure(config: Config, method: str, steps: int) -> dict:
    """In a process of its own: seconds there and back, peak bytes, norm of the gradient by lr."""
    problem = Problem(config)
    adjoint = adjoints(steps)[method]
    index = problem.batches(steps)
    problem.run(adjoints(2)[method], index[:2])  # imports, thread pools, the libraries' own buffers
    give_back_memory()
    forget_peak(config.device)
    (before, _) = memory_bytes(config.device)
    start = time.perf_counter()
    gradients = problem.run(adjoint, index)
    norm = gradients["lr"].norm().item()  # waits for the device
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": memory_bytes(config.device)[1] - before, "d_lr_norm": norm}


def summary(config: Config, method: str, steps: int, samples: list[dict], base: list[dict]) -> dict:
    seconds = [s["seconds"] for s in samples]
    return {
        "method": method,
        "steps": steps,
        "n": len(samples),
        "seconds": statistics.median(seconds),
        "seconds_min_max": min_max(seconds),
        "relative_to_checkpointed": statistics.median(
            s["seconds"] / b["seconds"] for s, b in zip(samples, base, strict=True)
        ),
        "peak_mib": statistics.median(s["peak_bytes"] for s in samples) / MIB,
        "peak_mib_min_max": min_max([s["peak_bytes"] / MIB for s in samples]),
        "predicted_mib": Problem(config).predicted_bytes(adjoints(steps)[method], steps) / MIB,
        "d_lr_norm": samples[0]["d_lr_norm"],
    }


def verdict(rows: list[dict]) -> dict[str, tuple[float, bool]]:
    """The claims of the docstring, as far as these rows can decide them: the figure found, and whether it
    keeps the claim."""
    measured = {(row["method"], row["steps"]): row for row in rows if "seconds" in row}
    result = {}
    for method, steps in measured:
        row = measured[method, steps]
        ratio = row["peak_mib"] / row["predicted_mib"]
        result[f"{method}, T = {steps:,}: memory to prediction within 20 %"] = ratio, abs(ratio - 1) <= 0.2
    if {("Reversible", 1000), ("Unrolled", 1000)} <= measured.keys():
        ratio = measured["Unrolled", 1000]["peak_mib"] / max(measured["Reversible", 1000]["peak_mib"], 0.1)
        result["T = 1,000: Reversible at least 30 times smaller than storing every step"] = ratio, ratio >= 30
    return result


def linearity(problem: Problem) -> dict[str, tuple[float, bool]]:
    """Time of T = 64 to T = 32, in this process and in turn: the median of the ratios of the rounds, and
    whether it is 2 within 10 %."""
    result = {}
    for method in adjoints(1):
        ratios = []
        for _ in range(LINEARITY_ROUNDS):
            taken = []
            for steps in (32, 64):
                index = problem.batches(steps)
                start = time.perf_counter()
                problem.run(adjoints(steps)[method], index)["lr"].norm().item()  # waits for the device
                taken.append(time.perf_counter() - start)
            ratios.append(taken[1] / taken[0])
        ratio = statistics.median(ratios)
        result[f"{method}: time of T = 64 to T = 32 within 10 % of 2 (n = {LINEARITY_ROUNDS})"] = (
            ratio,
            abs(ratio / 2 - 1) <= 0.1,
        )
    return result


def plot(rows: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 5))
    for method in adjoints(1):
        points = [row for row in rows if row["method"] == method and "seconds" in row]
        peaks = [max(row["peak_mib"], 0.1) for row in points]
        axes.plot([row["seconds"] for row in points], peaks, "o-", label=method)
        for row, peak in zip(points, peaks, strict=True):
            axes.annotate(
                f"T={row['steps']:,}",
                (row["seconds"], peak),
                textcoords="offset points",
                xytext=(4, 5),
                fontsize=7,
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="seconds, there and back",
        ylabel="peak memory over the start [MiB]",
    )
    axes.set_title("One training run and its meta-gradient")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "full"), default="full", help="tiny: seconds, for CI")
    parser.add_argument("--out", type=Path, help="folder for long_runs.json and long_runs.png")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        metavar="T",
        help="numbers of inner steps, where not those of the size",
    )
    parser.add_argument(
        "--hidden", type=int, help="width of the learner's hidden layer, where not that of the size"
    )
    parser.add_argument("--rounds", type=int, help="samples of each method, in turn")
    parser.add_argument("--note", default="", help="anything about the machine that a reader should know")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        config, method, steps = json.loads(args.job)
        print(json.dumps(measure(Config(**config), method, steps)))
        return
    if args.out is None:
        parser.error("--out is needed")
    config = dataclasses.replace(TINY if args.size == "tiny" else Config(), device=args.device)
    config = dataclasses.replace(
        config, rounds=args.rounds or config.rounds, steps=tuple(args.steps or config.steps)
    )
    config = dataclasses.replace(config, hidden=args.hidden or config.hidden)
    problem = Problem(config)
    agreement = compare(problem, config.steps[0])
    print(
        f"784-{config.hidden}-10, batch {config.batch}, P = {problem.weights:,}, momentum "
        f"{config.momentum}; ",
        end="",
    )
    print(
        f"gradients agree to {max(agreement.values()):.0e} at T = {config.steps[0]} (float32); n = "
        f"{config.rounds}\n"
    )
    print(
        f"{'T':>6}  "
        f"{'method':<21}{'seconds (min-max)':>24}{'/ Checkp.(1)':>13}{'peak MiB':>10}{'predicted':>10}"
    )
    rows = []
    for steps in config.steps:
        predicted = {
            method: problem.predicted_bytes(adjoint, steps) for method, adjoint in adjoints(steps).items()
        }
        possible = [method for method in predicted if predicted[method] <= config.limit_mib * MIB]
        fields = dataclasses.asdict(config)
        rounds = [
            {method: run_apart(__file__, [fields, method, steps]) for method in possible}
            for _ in range(config.rounds)
        ]
        for method, expected in predicted.items():
            if method in possible:
                row = summary(
                    config, method, steps, [r[method] for r in rounds], [r["Checkpointed(1)"] for r in rounds]
                )
                low, high = row["seconds_min_max"]
                spread = f"{row['seconds']:.2f} ({low:.2f}-{high:.2f})"
                print(
                    f"{steps:>6}  {method:<21}{spread:>24}{row['relative_to_checkpointed']:>13.2f}"
                    f"{row['peak_mib']:>10.1f}{row['predicted_mib']:>10.1f}",
                    flush=True,
                )
            else:
                reason = f"predicted {expected / MIB:,.0f} MiB is above the limit of {config.limit_mib:,} MiB"
                row = {"method": method, "steps": steps, "skipped": reason}
                print(f"{steps:>6}  {method:<21}  skipped: {reason}", flush=True)
            rows.append(row)
    outcome = verdict(rows) | linearity(problem)
    print(
        "\n"
        + "\n".join(
            f"{claim}: {'yes' if met else 'NO'} ({found:.3g})" for claim, (found, met) in outcome.items()
        )
    )
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "config": dataclasses.asdict(config),
        "note": args.note,
        **environment(torch.device(config.device)),
    }
    found = {"weights": problem.weights, "agreement": agreement, "verdict": outcome, "rows": rows}
    write_json(args.out / "long_runs.json", {**record, **found})
    plot(rows, args.out / "long_runs.png")


def compare(problem: Problem, steps: int) -> dict[str, float]:
    """Largest relative difference of each method's gradients to those of Unrolled; stops the benchmark where
    they are not the same."""
    expected = problem.run(Unrolled(), problem.batches(steps))
    agreement = {}
    for method, adjoint in adjoints(steps).items():
        found = problem.run(adjoint, problem.batches(steps))
        agreement[method] = max(relative_difference(found[name], d) for name, d in expected.items())
        if not agreement[method] < 1e-3:
            raise SystemExit(f"{method} differs from Unrolled by {agreement[method]:.1e}; nothing was timed")
    return agreement


if __name__ == "__main__":
    main()
