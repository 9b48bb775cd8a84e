"""Seconds of an outer step of a preset, as a run takes it: teacher, inner loop, Adam, there and back.

    python benchmarks/outer_step.py --preset mnist-paper --device cuda --precision tf32 --out FOLDER

The images are random numbers of the preset's shape, which changes no time, so no data set is needed. The
first step, which compiles and captures, is stated by itself; then the median, least and most of ``--steps``
more. Each run ends with the question that a resumed one rests on: two trainings from the same seed give the
same bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from minigtn import PRESETS, MetaTraining, RunConfig
from minigtn.data import Dataset, Split
from minigtn.runs.devices import choose
from minigtn.runs.files import environment, write_json
from minigtn.runs.settings import to_dict

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
IMAGES = 10_000
WARM_UP = 3  # steps after the first that are not counted
REPEATED = 3  # outer steps of the two trainings that must have the same bits


def random_data(name: str, device: torch.device) -> Dataset:
    """Images and labels of the data set's shapes, drawn at random."""
    rng = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        return Split(torch.randn(n, *SHAPES[name], generator=rng), torch.randint(10, (n,), generator=rng))

    channels = SHAPES[name][0]
    classes = tuple("0123456789")
    data = Dataset(
        name, split(IMAGES), split(100), split(100), classes, (0.5,) * channels, (0.25,) * channels
    )
    return data.to(device)


def measure(config: RunConfig, data: Dataset, steps: int) -> dict[str, Any]:
    """Seconds of the first outer step and of ``steps`` later ones, and the peak of torch's allocator on
    CUDA."""
    device = data.train.x.device
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    training = MetaTraining(config, data)
    seconds = []
    for _ in range(1 + WARM_UP + steps):
        wait()
        started = time.perf_counter()
        training.outer_step()
        wait()
        seconds.append(time.perf_counter() - started)
    timed = seconds[1 + WARM_UP :]
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {
        "adjoint": repr(training.meta_gradient.adjoint),
        "n": steps,
        "first_step_seconds": seconds[0],
        "seconds": statistics.median(timed),
        "seconds_min_max": [min(timed), max(timed)],
        "peak_mib": peak,
    }


def repeats(config: RunConfig, data: Dataset) -> bool:
    """Whether a second training takes the same steps, bit for bit."""
    ends = []
    for _ in range(2):
        training = MetaTraining(config, data)
        for _ in range(REPEATED):
            training.outer_step()
        ends.append(torch.cat([p.detach().flatten() for p in training.teacher.parameters()]))
    return torch.equal(*ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument(
        "--size", choices=("tiny", "full"), default="full", help="tiny: the preset tiny, for CI"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "tf32", "bfloat16"))
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--graphs", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--skip-repeat", action="store_true", help="do not ask whether a second training is the same"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for outer_step_<preset>_<settings>.json"
    )
    args = parser.parse_args()
    preset = "tiny" if args.size == "tiny" else args.preset or "mnist-paper"
    steps = 2 if args.size == "tiny" else args.steps
    device = choose(args.device, torch.get_num_threads(), args.precision)
    settings = {"precision": args.precision, "compile": args.compile, "graphs": args.graphs}
    config = PRESETS[preset]
    config = dataclasses.replace(config, meta=dataclasses.replace(config.meta, **settings))
    data = random_data(config.dataset, device)
    row = measure(config, data, steps)
    low, high = row["seconds_min_max"]
    named = ", ".join(f"{name} {value}" for name, value in settings.items())
    print(f"{preset}, {named}: {row['adjoint']}")
    print(
        f"outer step {1e3 * row['seconds']:.1f} ms ({1e3 * low:.1f}-{1e3 * high:.1f}), n = {steps}, ", end=""
    )
    print(f"the first one {row['first_step_seconds']:.1f} s", end="")
    print(f", peak {row['peak_mib']:,.0f} MiB" if row["peak_mib"] else "", flush=True)
    if not args.skip_repeat:
        row["repeats_bit_for_bit"] = repeats(config, data)
        print(f"a second training has the same bits: {'yes' if row['repeats_bit_for_bit'] else 'NO'}")
    name = "_".join([preset, *settings.values()])
    record = {"config": to_dict(config), **environment(device), **row}
    write_json(args.out / f"outer_step_{name}.json", record)


if __name__ == "__main__":
    main()
