"""Which way round is the second-order pass faster: double backward or forward over reverse?

    python benchmarks/second_order.py --size full --out benchmarks/records/<date>_second_order

Times, for dense and convolutional learners in float32, one pass that returns gradient, Hessian product and
the mixed term of the images beside one plain gradient. Variants are timed in turn, round after round; the
table gives medians. Before anything is timed the two must agree. The outcome decided
``minigtn.inner.step.gradient_and_pull_back``; see docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.autograd.forward_ad as fwAD

from minigtn.inner.step import grad_or_zeros, gradient, gradient_and_pull_back, leaves
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Learner, LearnerConfig
from minigtn.runs.files import environment, write_json
from minigtn.studies.problems import relative_difference

DENSE = {"channels": (), "pool_after": ()}
LEARNERS = {  # name: configuration, images in a batch
    "dense S": (LearnerConfig(**DENSE, hidden=(32,)), 32),
    "dense M": (LearnerConfig(**DENSE, hidden=(256, 64)), 64),
    "conv S": (LearnerConfig(channels=(8, 16), hidden=(32,)), 32),
    "conv M": (LearnerConfig(channels=(16, 32), hidden=(64,)), 64),
}
SECONDS_PER_SAMPLE = 0.1
TOLERANCE = 1e-4  # of float32 Hessian products that sum in another order


def passes(
    config: LearnerConfig, batch_size: int, memory_format: torch.memory_format, device: str
) -> dict[str, Callable]:
    """The three things that are timed, on the same weights and images."""
    learner = Learner(config, (1, 28, 28), n_classes=10)
    params = learner.init(0, device=device)
    sizes = [p.numel() for p in params.values()]

    def loss(w, batch):
        parts = {
            name: part.view(p.shape) for (name, p), part in zip(params.items(), w.split(sizes), strict=True)
        }
        return cross_entropy(learner(parts, batch[0]), batch[1])

    rng = torch.Generator().manual_seed(0)
    w = torch.cat([p.reshape(-1) for p in params.values()])
    nu = torch.randn(w.shape, generator=rng).to(device)
    x = torch.randn(batch_size, 1, 28, 28, generator=rng).to(device).contiguous(memory_format=memory_format)
    y = torch.randn(batch_size, 10, generator=rng).softmax(-1).to(device)

    def twice_backward():
        g, pull_back = gradient_and_pull_back(loss, w, [x, y], [True, False])
        return g, *pull_back(nu)

    return {
        "gradient": lambda: gradient(loss, w, [x, y]),
        "double backward": twice_backward,
        "forward over reverse": lambda: forward_over_reverse(loss, w, [x, y], nu, [True, False]),
    }


def forward_over_reverse(loss, w, batch, nu, wanted):
    """``g``, ``H nu`` and the mixed terms by forward-mode differentiation of the gradient along ``nu``
    (MixFlow-MG, ICML 2025), which must be known before."""
    with fwAD.dual_level(), torch.enable_grad():
        batch = leaves(batch, wanted)
        w = fwAD.make_dual(w.detach().requires_grad_(), nu)
        inputs = [w, *(b for b in batch if b.requires_grad)]
        duals = [fwAD.unpack_dual(d) for d in grad_or_zeros(loss(w, batch), inputs)]
    h_nu, *mixed = [torch.zeros_like(d.primal) if d.tangent is None else d.tangent for d in duals]
    return duals[0].primal, h_nu, tuple(mixed)


def seconds(f: Callable, repeats: int, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        f()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def measure(name: str, memory_format: torch.memory_format, rounds: int, device: str) -> dict:
    """Medians and spreads in milliseconds, and the ratio of the two passes by round."""
    variants = passes(*LEARNERS[name], memory_format, device)
    _, h1, (m1,) = variants["double backward"]()
    _, h2, (m2,) = variants["forward over reverse"]()
    difference = max(relative_difference(h1, h2), relative_difference(m1, m2))
    if difference > TOLERANCE:
        raise SystemExit(
            f"{name}: the two passes differ by {difference:.1e}, more than {TOLERANCE:.0e}; nothing was timed"
        )
    repeats = {
        key: max(1, int(SECONDS_PER_SAMPLE / seconds(f, 2, device))) if rounds > 1 else 1
        for key, f in variants.items()
    }
    samples: dict[str, list[float]] = {key: [] for key in variants}
    for _ in range(rounds):
        for key, f in variants.items():
            samples[key].append(1e3 * seconds(f, repeats[key], device))
    ratios = [a / b for a, b in zip(samples["forward over reverse"], samples["double backward"], strict=True)]
    return {
        "learner": name,
        "memory_format": str(memory_format).removeprefix("torch."),
        "milliseconds": {key: statistics.median(values) for key, values in samples.items()},
        "milliseconds_min_max": {key: [min(values), max(values)] for key, values in samples.items()},
        "ratio": statistics.median(ratios),
        "ratio_min_max": [min(ratios), max(ratios)],
        "difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size",
        choices=("tiny", "full"),
        default="full",
        help="tiny: the two small learners, one round, for CI",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for second_order.json")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=9, help="samples of each variant, in turn")
    parser.add_argument("--note", default="", help="anything about the machine that a reader should know")
    args = parser.parse_args()
    rounds = 1 if args.size == "tiny" else args.rounds
    print(
        f"{'learner':<9}{'format':<19}{'gradient':>9}{'double b.':>10}{'fwd/rev':>9}  ratio (min-max)   "
        f"[ms; median of {rounds}]"
    )
    rows = []
    for name in LEARNERS:
        if args.size == "tiny" and name.endswith("M"):
            continue
        for memory_format in (torch.contiguous_format, torch.channels_last)[
            : 1 if name.startswith("dense") else 2
        ]:
            row = measure(name, memory_format, rounds, args.device)
            ms = row["milliseconds"]
            (low, high) = row["ratio_min_max"]
            print(
                f"{name:<9}{row['memory_format']:<19}{ms['gradient']:>9.2f}{ms['double backward']:>10.2f}"
                f"{ms['forward over reverse']:>9.2f}  {row['ratio']:.2f} ({low:.2f}-{high:.2f})",
                flush=True,
            )
            rows.append(row)
    args.out.mkdir(parents=True, exist_ok=True)
    config = {
        "rounds": rounds,
        "seconds_per_sample": SECONDS_PER_SAMPLE,
        "size": args.size,
        "dtype": "float32",
        "note": args.note,
    }
    write_json(
        args.out / "second_order.json",
        {"config": config, **environment(torch.device(args.device)), "rows": rows},
    )


if __name__ == "__main__":
    main()
