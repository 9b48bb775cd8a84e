"""The meta-gradient of a Generative Teaching Network: minigtn's adjoints beside what else a user would pick.

    python benchmarks/meta_gradient.py --size M --out benchmarks/records/<date>_meta_gradient

One outer step: the generator of the paper makes T batches of B images in one call; a learner, conv c1 - max
pool - leaky ReLU - conv c2 - max pool - leaky ReLU - dense f - leaky ReLU - dense 10, is trained on them for
T steps of SGD with momentum 0.5; the cross entropy on 256 "real" images (random numbers) is differentiated
back to the generator's weights, z, lr (T,) and momentum (T,).

- Every method must first give the gradient of plain unrolling in float64, with lr and momentum that change
  from step to step.
- The peak memory of each is what an outer step adds once a tiny one has loaded all code: on the CPU to the
  resident memory of a fresh process, on CUDA to torch's allocator. The times come from one process, where the
  methods take turns, round after round, after one to warm up. JAX has a process of its own, which takes its
  turns with them; its compilation counts neither as time nor as memory, and is stated. That of
  ``Checkpointed(compile=True)`` is its first step's excess. On CUDA JAX's peak is that of its allocator,
  compilation included where that needed more ("peak_is_of_the_step": false); "temporary_bytes" is what the
  compiled step says of itself.
- On CUDA everything runs with the settings of ``minigtn.devices.choose``: float32 is float32 unless
  --precision tf32; the peers alone run without deterministic algorithms, which they do not need.
- "teacher alone" is the part that is not the inner loop: images, lr and momentum there and back. The peers
  use a generator of plain PyTorch (or JAX) operations, minigtn its own; the weights are the same. With
  ``--pixels`` there is no generator.
- FLOP/s are useful ones: the operations that FlopCounterMode finds in plain unrolling (products and
  convolutions of the generator and the learner, there and back) over the method's time. What a method
  recomputes counts as time, not as work. The floor is the time that these would take at the rate of the
  device's own matrix product.

The peers ``higher``, ``torchopt``, ``betty`` (betty-ml) and ``jax`` are measured where they are installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from common import min_max, run_apart
from jax_peer import JAX
from measuring import (
    MATRIX,
    TOLERANCE,
    agreement,
    count_flops,
    hush_peers,
    peak,
    precision,
    profiled,
    times,
)
from methods import COMPILED, methods
from peers import PACKAGES, PLAIN
from problem import SIZES, Config
from rows import plot, summary, table, verdict

from minigtn.runs.devices import choose
from minigtn.runs.files import environment, write_json

# At most, relative to the fastest peer on the CPU: fastest adjoint's time, Checkpointed(1)'s, its memory.
TARGETS = {
    "M": {"fastest_adjoint_time": 0.6, "checkpointed_time": 1.0, "checkpointed_memory": 0.15},
    "L": {"fastest_adjoint_time": 0.8, "checkpointed_time": 1.15, "checkpointed_memory": 0.15},
}
# Sizes at which the methods are compared in float64; larger ones are compared at the last of these.
CHECKED = ("tiny", "S")


def do_job(job: list) -> int:
    """In a process of its own: the peak memory of one method."""
    fields, method = job
    hush_peers()
    config = Config(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    )
    choose(config.device, config.threads, config.precision)
    return peak(config, method)


def versions_of_peers() -> dict[str, str]:
    found = {}
    for package in (*PACKAGES.values(), "jax", "jaxlib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="M", help="tiny: seconds, for CI")
    parser.add_argument(
        "--out", type=Path, help="folder for meta_gradient_<size>[_T<steps>][_pixels][_tf32].json and .png"
    )
    parser.add_argument("--rounds", type=int, help="samples of each method, in turn (default 7; tiny: 1)")
    parser.add_argument(
        "--pixels", action="store_true", help="learn the pixels themselves, not a generator's weights"
    )
    parser.add_argument("--steps", type=int, help="inner steps T, where not those of the size")
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="methods to leave out, by the names of the table",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "tf32"), help="of float32 products on CUDA"
    )
    parser.add_argument(
        "--profile", action="store_true", help="also print where the time of Checkpointed(1) goes"
    )
    parser.add_argument("--note", default="", help="anything about the machine that a reader should know")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out is None and not args.job:
        parser.error("--out is needed")
    if args.precision == "tf32" and args.device == "cpu":
        parser.error("--precision tf32 needs --device cuda: CPUs have no TF32")
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {args.rounds}")
    optional = {*methods(dataclasses.replace(SIZES["tiny"], device=args.device)), JAX, COMPILED}
    unknown = set(args.without) - (optional - {PLAIN, "minigtn Checkpointed(1)"})
    if unknown:
        parser.error(f"--without {sorted(unknown)[0]!r}: not a method that can be left out")
    return args


def main() -> None:
    args = arguments()
    if args.job:
        print(json.dumps(do_job(json.loads(args.job))))
        return
    hush_peers()
    device = choose(args.device, args.threads, args.precision)
    rounds = args.rounds or (1 if args.size == "tiny" else 7)
    of_this_run = {name: getattr(args, name) for name in ("threads", "device", "pixels", "precision")}
    config = dataclasses.replace(SIZES[args.size], **of_this_run)
    config = dataclasses.replace(config, steps=args.steps or config.steps)
    checked = args.size if args.size in CHECKED else CHECKED[-1]
    small = dataclasses.replace(SIZES[checked], **of_this_run)
    agree = agreement(small, args.without)
    skipped = {name: reason for name, reason in agree.items() if isinstance(reason, str)}
    differences = {name: difference for name, difference in agree.items() if not isinstance(difference, str)}
    flops = count_flops(config)
    widths = "/".join(map(str, (*config.channels, config.hidden)))
    title = f"size {args.size}, learner {widths}, B = {config.batch}, T = {config.steps}"
    title += ", learned pixels" if args.pixels else ""
    print(
        f"{title}; {flops / 1e9:,.1f} GFLOP with everything stored; n = {rounds}, {args.threads} threads, "
        f"{args.precision}"
    )
    print(f"float64 gradients at size {checked}, relative difference to plain unrolling: ", end="")
    print(", ".join(f"{name} {difference:.0e}" for name, difference in differences.items()))
    for name, reason in skipped.items():
        print(f"{name}: skipped, {reason}")
    precisions = precision(small)
    for name, effect in precisions.items():
        print(
            "{0} beside float64: difference {relative_difference:.1e}, cosine {cosine:.8f}".format(
                name, **effect
            )
        )

    names = [name for name in (*methods(config), JAX) if name not in skipped and name not in args.without]
    here = [name for name in names if name != JAX]
    if args.device == "cuda":  # its allocator keeps exact accounts
        peaks = {name: peak(config, name) for name in here}
    else:
        peaks = {name: run_apart(__file__, [dataclasses.asdict(config), name]) for name in here}
    samples, rates, jax_first = times(config, names, rounds)
    machine = statistics.median(rates)
    low, high = min_max(rates)
    side = MATRIX[args.device]
    print(f"matrix product ({side} x {side}): {machine / 1e9:.0f} GFLOP/s ({low / 1e9:.0f}-{high / 1e9:.0f})")
    print(f"floor: {flops / machine:.4f} s\n")
    if jax_first:
        peaks[JAX] = jax_first["peak_bytes"]
    rows = [summary(name, samples[name], samples[PLAIN], peaks[name], flops, machine) for name in samples]
    if jax_first:
        rows[list(samples).index(JAX)] |= jax_first
    print(table(rows))
    outcome = verdict(rows)
    if jax_first:
        print(
            "JAX ({precision}) beside plain unrolling: {relative_difference_to_plain:.1e} apart".format(
                **jax_first
            )
        )
    if args.profile:
        print(profiled(config))
    print(
        "\nbeside {fastest_peer}, the fastest peer; {fastest_adjoint} is the fastest adjoint:".format(
            **outcome
        )
    )
    for what in ("fastest_adjoint_time", "checkpointed_time", "checkpointed_memory"):
        target = TARGETS.get(args.size, {}).get(what) if args.device == "cpu" else None
        judged = (
            "" if target is None else f", target {target}: {'met' if outcome[what] <= target else 'NOT met'}"
        )
        print(f"{what.replace('_', ' ')} {outcome[what]:.2f}x{judged}")

    args.out.mkdir(parents=True, exist_ok=True)
    about = environment(device)
    about["versions"] |= versions_of_peers()
    record = {
        "config": {"size": args.size, "rounds": rounds, "dtype": "float32", **dataclasses.asdict(config)},
        "note": args.note,
        **about,
        "flops": flops,
        "matrix_product": {
            "side": side,
            "flops_per_second": machine,
            "flops_per_second_min_max": [low, high],
        },
        "floor_seconds": flops / machine,
        "agreement": {
            "size": checked,
            "dtype": "float64",
            "tolerance": TOLERANCE,
            "relative_difference": differences,
        },
        "precision": {"size": checked, **precisions},
        "skipped": skipped,
        "verdict": outcome,
        "rows": rows,
    }
    tags = (
        [f"T{args.steps}"] * bool(args.steps)
        + ["pixels"] * args.pixels
        + ["tf32"] * (args.precision == "tf32")
    )
    name = "_".join(["meta_gradient", args.size, *tags])
    write_json(args.out / f"{name}.json", record)
    plot(rows, title, args.out / f"{name}.png")


if __name__ == "__main__":
    main()
