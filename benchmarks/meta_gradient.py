"""The meta-gradient of a Generative Teaching Network: minigtn's adjoints beside what a user would pick instead.

    python benchmarks/meta_gradient.py --size M --out benchmarks/records/<date>_meta_gradient

One outer step: the generator of the paper makes T batches of B images in one call; a learner, conv c1 - max pool - leaky ReLU - conv c2 -
max pool - leaky ReLU - dense f - leaky ReLU - dense 10, is trained on them for T steps of SGD with momentum 0.5; the cross entropy on 256
"real" images (random numbers) is differentiated back to the generator's weights, z, lr (T,) and momentum (T,).

- Every method must first give the gradient of plain unrolling in float64, with lr and momentum that change from step to step.
- The peak memory of each comes from a fresh process: what its resident memory (CUDA: torch's allocator) grows by in an outer step, after
  a tiny one has loaded all code. The times come from one process, where the methods take turns, round after round, after one to warm up.
- "teacher alone" is the part that is not the inner loop: images, lr and momentum there and back. The peers use a generator of plain PyTorch
  operations, minigtn its own; the weights are the same. With ``--pixels`` there is no generator.
- FLOP/s are useful ones: the operations that FlopCounterMode finds in plain unrolling (products and convolutions of the generator and the
  learner, there and back) over the method's time. What a method recomputes counts as time, not as work.

The peers ``higher``, ``torchopt`` and ``betty`` (betty-ml) are measured where they are installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from common import MIB, adjoints, forget_peak, memory_bytes, min_max, run_apart, wait_for
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import minigtn
from minigtn import Adjoint, Checkpointed
from minigtn.networks.layers import SLOPE, cross_entropy
from minigtn.networks.learners import Learner, LearnerConfig
from minigtn.runs.files import environment, write_json
from minigtn.studies.check import relative_difference
from minigtn.teaching.teacher import MOMENTUM_MAX, Teacher, TeacherConfig

TOLERANCE = 1e-8  # of float64 gradients
MATRIX = 2048  # side of the matrix product that the machine is measured by


@dataclass(frozen=True)
class Config:
    """What is measured."""

    channels: tuple[int, ...]
    hidden: int
    """Width of the dense layer before the head; 0: the average over all positions instead."""
    batch: int
    steps: int
    image: tuple[int, int, int] = (1, 28, 28)
    pool_after: tuple[int, ...] = (1, 2)
    real: int = 256
    z: int = 128
    dense: int = 1024
    generator: tuple[int, int] = (128, 64)
    lr: float = 0.02
    momentum: float = 0.5
    pixels: bool = False
    """No generator: the pixels themselves are learned, so that only the inner loop is left."""
    threads: int = 0
    device: str = "cpu"


SIZES = {
    "tiny": Config((3, 4), 8, batch=10, steps=4, real=16, z=4, dense=8, generator=(4, 3)),
    "S": Config((8, 16), 32, batch=32, steps=8),
    "M": Config((16, 32), 64, batch=64, steps=16),
    "L": Config((64, 128), 256, batch=128, steps=32),
    "X": Config((64, 64, 128, 128, 256), 0, batch=128, steps=128, image=(3, 32, 32), pool_after=(2, 4)),  # for a GPU
}
TARGETS = {  # at most, relative to the fastest peer on the CPU: the fastest adjoint's time, Checkpointed(1)'s time and its memory
    "M": {"fastest_adjoint_time": 0.6, "checkpointed_time": 1.0, "checkpointed_memory": 0.15},
    "L": {"fastest_adjoint_time": 0.8, "checkpointed_time": 1.15, "checkpointed_memory": 0.15},
}
CHECKED = ("tiny", "S")  # sizes at which the methods are compared in float64; larger ones are compared at the last of these


class Problem:
    """Teacher, learner and real data of one outer step."""

    def __init__(self, config: Config, dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        teacher = TeacherConfig(
            inner_steps=config.steps,
            batch_size=config.batch,
            images="pixels" if config.pixels else "generator",
            z_size=config.z,
            dense=config.dense,
            channels=config.generator,
            lr=config.lr,
            momentum=config.momentum,
        )
        self.teacher = Teacher(teacher, config.image, 10, seed=0, dtype=dtype).to(config.device)
        hidden = (config.hidden,) if config.hidden else ()
        learner = LearnerConfig(config.channels, config.pool_after, hidden, global_pool=not hidden, norm="none", weight_norm=False)
        self.learner = Learner(learner, config.image, 10)
        self.params = self.learner.init(0, dtype=dtype, device=config.device)
        rng = torch.Generator().manual_seed(0)
        self.real_x = torch.randn(config.real, *config.image, generator=rng, dtype=dtype).to(config.device)
        self.real_y = torch.randint(10, (config.real,), generator=rng).to(config.device)

        self.module = self._module()

    def _module(self) -> nn.Module:
        """The learner as a user of the peers would write it, with the same weights."""
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise((self.config.image[0], *self.config.channels)), 1):
            pooling = [nn.MaxPool2d(3, 2, 1)] if i in self.config.pool_after else []
            layers += [nn.Conv2d(before, after, 3, padding=1), *pooling, nn.LeakyReLU(SLOPE)]
        layers += [nn.Flatten()] if self.config.hidden else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        for name, p in self.params.items():
            if name.startswith("dense") and p.dim() == 2:
                layers += [nn.Linear(p.shape[1], p.shape[0]), nn.LeakyReLU(SLOPE)]
        layers += [nn.Linear(self.params["head.weight"].shape[1], 10)]
        module = nn.Sequential(*layers).to(self.real_x)
        with torch.no_grad():
            for mine, theirs in zip(self.params.values(), module.parameters(), strict=True):
                theirs.copy_(mine)
        return module

    def vary(self) -> None:
        """Another lr and momentum in every step (momenta that Reversible can represent), so that a step out of order is noticed."""
        with torch.no_grad():
            self.teacher.lr_raw += torch.linspace(-0.5, 0.5, self.config.steps).to(self.teacher.lr_raw)
            fraction = torch.arange(1, self.config.steps + 1).remainder(7).add(1).to(self.teacher.momentum_raw) / 8 / MOMENTUM_MAX
            self.teacher.momentum_raw.copy_(torch.logit(fraction))

    def gradient(self, method: Callable[[Problem], None]) -> dict[str, Tensor]:
        """The meta-gradient of one outer step."""
        self.teacher.zero_grad(set_to_none=True)
        method(self)
        return {name: p.grad for name, p in self.teacher.named_parameters() if p.grad is not None}


# ---- the methods: each leaves the meta-gradient in the teacher's parameters -------------------------------------------------------------


def with_adjoint(adjoint: Adjoint, compute: torch.dtype | None = None) -> Callable[[Problem], None]:
    """``compute``: the learner's own arithmetic, where it is not that of the weights; its logits go back to theirs."""

    def method(problem: Problem) -> None:
        def loss(params, batch):
            x, y = batch
            if compute is None:
                return cross_entropy(problem.learner(params, x), y)
            logits = problem.learner({name: p.to(compute) for name, p in params.items()}, x.to(compute))
            return cross_entropy(logits.to(x.dtype), y)

        x, y, lr, momentum = problem.teacher()
        trained = minigtn.sgd(loss, problem.params, (x, y), lr, momentum, adjoint)
        loss(trained, (problem.real_x, problem.real_y)).backward()

    return method


def plain_teacher(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``problem.teacher()`` returns, by a generator as a PyTorch user would write it: the peers depend on no trick of minigtn's."""
    teacher = problem.teacher
    if problem.config.pixels:
        return teacher()
    w = {name: p for name, p in teacher.generator.items() if not name.endswith(("direction", "gain"))}
    for name in ("dense1", "dense2", "conv1", "conv2"):
        direction, gain = teacher.generator[f"{name}-direction"], teacher.generator[f"{name}-gain"]
        w[name] = direction * (gain / direction.flatten(1).norm(dim=1)).view(-1, *[1] * (direction.dim() - 1))

    def normalized(name: str, h: Tensor) -> Tensor:
        h = F.batch_norm(h, None, None, w[f"{name}-norm_scale"], w[f"{name}-bias"], training=True)
        return F.leaky_relu(h, SLOPE)

    def upsampled(h: Tensor) -> Tensor:
        return F.pad(F.interpolate(h, scale_factor=2, mode="nearest"), (1, 1, 1, 1), mode="reflect")

    h = torch.cat([teacher.z, teacher.classes], -1).flatten(0, 1)
    h = normalized("dense1", F.linear(h, w["dense1"]))
    h = normalized("dense2", F.linear(h, w["dense2"]))
    h = h.view(len(h), -1, teacher.image_shape[1] // 4, teacher.image_shape[2] // 4)
    h = normalized("conv1", F.conv2d(upsampled(h), w["conv1"]))
    x = 2 * torch.tanh(F.conv2d(upsampled(h), w["conv2"], w["conv2-bias"]))
    return x.view(*teacher.classes.shape[:2], *teacher.image_shape), teacher.classes, teacher.lr(), teacher.momentum()


def plain(problem: Problem) -> None:
    """Unrolling as the PyTorch tutorials do it."""
    module = problem.module
    names, w = zip(*module.named_parameters(), strict=True)
    v = [torch.zeros_like(p) for p in w]
    x, y, lr, momentum = plain_teacher(problem)
    for t in range(len(x)):
        loss = F.cross_entropy(torch.func.functional_call(module, dict(zip(names, w, strict=True)), x[t]), y[t])
        g = torch.autograd.grad(loss, w, create_graph=True)
        v = [momentum[t] * v_ + g_ for v_, g_ in zip(v, g, strict=True)]
        w = [w_ - lr[t] * v_ for w_, v_ in zip(w, v, strict=True)]
    logits = torch.func.functional_call(module, dict(zip(names, w, strict=True)), problem.real_x)
    F.cross_entropy(logits, problem.real_y).backward()


def with_checkpoints(reentrant: bool) -> Callable[[Problem], None]:
    """Plain unrolling, every inner step inside torch.utils.checkpoint."""

    def method(problem: Problem) -> None:
        module = problem.module
        names, w = zip(*module.named_parameters(), strict=True)
        v = tuple(torch.zeros_like(p) for p in w)

        def step(x, y, lr, momentum, *state):
            w, v = state[: len(names)], state[len(names) :]
            again = torch.is_grad_enabled()  # a reentrant checkpoint runs first without, then once more with a graph
            if not again:
                w = [p.detach().requires_grad_() for p in w]
            with torch.enable_grad():
                loss = F.cross_entropy(torch.func.functional_call(module, dict(zip(names, w, strict=True)), x), y)
                g = torch.autograd.grad(loss, w, create_graph=again)
            v = [momentum * v_ + g_ for v_, g_ in zip(v, g, strict=True)]
            w = [w_ - lr * v_ for w_, v_ in zip(w, v, strict=True)]
            return (*w, *v)

        x, y, lr, momentum = plain_teacher(problem)
        for t in range(len(x)):
            state = checkpoint(step, x[t], y[t], lr[t], momentum[t], *w, *v, use_reentrant=reentrant, preserve_rng_state=False)
            w, v = state[: len(names)], state[len(names) :]
        logits = torch.func.functional_call(module, dict(zip(names, w, strict=True)), problem.real_x)
        F.cross_entropy(logits, problem.real_y).backward()

    return method


def with_higher(problem: Problem) -> None:
    import higher

    module = problem.module
    x, y, lr, momentum = plain_teacher(problem)
    optimizer = torch.optim.SGD(module.parameters(), lr=problem.config.lr, momentum=problem.config.momentum)
    with higher.innerloop_ctx(module, optimizer) as (functional, differentiable):
        for t in range(len(x)):
            loss = F.cross_entropy(functional(x[t]), y[t])
            differentiable.step(loss, override={"lr": [lr[t]], "momentum": [momentum[t]]})
        F.cross_entropy(functional(problem.real_x), problem.real_y).backward()


def with_torchopt(problem: Problem) -> None:
    import torchopt

    module = problem.module
    w, state = dict(module.named_parameters()), None
    x, y, lr, momentum = plain_teacher(problem)
    for t in range(len(x)):
        optimizer = torchopt.sgd(lr=lr[t], momentum=momentum[t])
        # a new optimizer adds its first gradient to the velocity without the momentum factor, so that is applied here
        state = torchopt.pytree.tree_map(lambda v, m=momentum[t]: m * v, state) if t else optimizer.init(w)
        loss = F.cross_entropy(torch.func.functional_call(module, w, x[t]), y[t])
        g = dict(zip(w, torch.autograd.grad(loss, tuple(w.values()), create_graph=True), strict=True))
        updates, state = optimizer.update(g, state, params=w, inplace=False)
        w = torchopt.apply_updates(w, updates, inplace=False)
    F.cross_entropy(torch.func.functional_call(module, w, problem.real_x), problem.real_y).backward()


def with_betty(problem: Problem) -> None:
    from betty.configs import Config as ProblemConfig
    from betty.configs import EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem, IterativeProblem

    x, y, lr, momentum = plain_teacher(problem)
    found: list[Tensor | None] = []

    class Inner(IterativeProblem):
        def get_batch(self):
            t = self._count - 1
            self.optimizer.param_groups[0].update(lr=lr[t], momentum=momentum[t])
            return x[t], y[t]

        def training_step(self, batch):
            return F.cross_entropy(self.fmodule(self.params, self.buffers, batch[0]), batch[1])

    class Outer(ImplicitProblem):
        def get_batch(self):
            return problem.real_x, problem.real_y

        def training_step(self, batch):
            return F.cross_entropy(self.inner.fmodule(self.inner.params, self.inner.buffers, batch[0]), batch[1])

        def custom_optimizer_step(self):
            found.extend(p.grad for p in self.module.parameters())

    module, steps, device = problem.module, problem.config.steps, problem.config.device
    optimizer = torch.optim.SGD(module.parameters(), lr=problem.config.lr, momentum=problem.config.momentum)
    unroll = ProblemConfig(unroll_steps=steps, retain_graph=True)
    inner = Inner("inner", unroll, module, optimizer, device=device)
    outer = Outer("outer", ProblemConfig(first_order=False), problem.teacher, device=device)
    dependencies = {"u2l": {}, "l2u": {inner: [outer]}}
    Engine([inner, outer], EngineConfig(train_iters=steps, valid_step=steps + 1), dependencies).run()
    for p, g in zip(problem.teacher.parameters(), found, strict=True):
        p.grad = g


def teacher_alone(make: Callable[[Problem], tuple[Tensor, ...]]) -> Callable[[Problem], None]:
    """The share that is not the inner loop: images, lr and momentum there and back."""

    def method(problem: Problem) -> None:
        x, _, lr, momentum = make(problem)
        torch.autograd.backward([x, lr, momentum], [torch.ones_like(x), torch.ones_like(lr), torch.ones_like(momentum)])

    return method


PLAIN = "plain unrolling"
TEACHERS = {
    "(plain teacher alone)": teacher_alone(plain_teacher),
    "(minigtn teacher alone)": teacher_alone(lambda problem: problem.teacher()),
}
PEERS = {
    PLAIN: plain,
    "torch checkpoint": with_checkpoints(reentrant=False),
    "torch checkpoint, reentrant": with_checkpoints(reentrant=True),
    "higher": with_higher,
    "torchopt": with_torchopt,
    "betty": with_betty,
}
PACKAGES = {"higher": "higher", "torchopt": "torchopt", "betty": "betty-ml"}


def methods(steps: int) -> dict[str, Callable[[Problem], None]]:
    ours = {f"minigtn {name}": with_adjoint(adjoint) for name, adjoint in adjoints(steps).items()}
    return PEERS | ours | TEACHERS


# ---- measuring --------------------------------------------------------------------------------------------------------------------------


def agreement(config: Config, without: Sequence[str]) -> dict[str, float | str]:
    """For every method its largest relative difference to plain unrolling in float64, or why it cannot be measured."""
    problem = Problem(config, torch.float64)
    problem.vary()
    expected = problem.gradient(plain)
    result: dict[str, float | str] = {}
    for name, method in methods(config.steps).items():
        if name in without:
            result[name] = "left out"
            continue
        if name == PLAIN or name in TEACHERS:
            continue
        try:
            found = problem.gradient(method)
        except ImportError as error:
            result[name] = f"not installed (no module {error.name})"
            continue
        except Exception as error:  # a peer may fail in any way with this version of torch; minigtn may not
            if name not in PACKAGES:
                raise
            result[name] = f"fails with {type(error).__name__}: {str(error).replace(sys.prefix, '')}"
            continue
        missing = expected.keys() - found.keys()
        difference = math.inf if missing else max(relative_difference(found[key], g) for key, g in expected.items())
        result[name] = difference if difference <= TOLERANCE else f"refused: its gradient differs by {difference:.1e}"
        if name not in PACKAGES and isinstance(result[name], str):
            raise SystemExit(f"{name} {result[name]}; nothing was timed")
    return result


def precision(config: Config) -> dict[str, dict[str, float]]:
    """What arithmetic does to the meta-gradient: length of the difference to float64's relative to it, and cosine between the two.

    float32; bfloat16 learners with float32 weights, state and generator; on CUDA also float32 with TF32 products.
    """

    def flat(dtype: torch.dtype, compute: torch.dtype | None = None) -> Tensor:
        problem = Problem(config, torch.float64)
        problem.vary()
        problem.params = {name: p.to(dtype) for name, p in problem.params.items()}
        problem.real_x = problem.real_x.to(dtype)
        problem.teacher.to(dtype)
        found = problem.gradient(with_adjoint(Checkpointed(), compute))
        return torch.cat([d.double().flatten() for _, d in sorted(found.items())])

    exact = flat(torch.float64)
    found = {"float32": flat(torch.float32), "bfloat16 learner": flat(torch.float32, torch.bfloat16)}
    if config.device == "cuda":
        kept = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        found["float32 with TF32 products"] = flat(torch.float32)
        torch.set_float32_matmul_precision(kept[0])
        torch.backends.cudnn.allow_tf32 = kept[1]
    return {
        name: {"relative_difference": ((d - exact).norm() / exact.norm()).item(), "cosine": F.cosine_similarity(d, exact, dim=0).item()}
        for name, d in found.items()
    }


def count_flops(config: Config) -> int:
    """Floating-point operations of plain unrolling, there and back, counted without computing anything."""
    problem = Problem(dataclasses.replace(config, device="meta"))
    with FlopCounterMode(display=False) as counter:
        plain(problem)
    return counter.get_total_flops()


def peak(config: Config, method: str) -> int:
    """In a process of its own: bytes that the first outer step adds to the memory that is held once all code is loaded."""
    run, problem = methods(config.steps)[method], Problem(config)
    tiny = dataclasses.replace(SIZES["tiny"], device=config.device, pixels=config.pixels)
    Problem(tiny).gradient(methods(tiny.steps)[method])  # imports, thread pools
    wait_for(config.device)
    forget_peak(config.device)
    before, _ = memory_bytes(config.device)
    problem.gradient(run)
    wait_for(config.device)
    return memory_bytes(config.device)[1] - before


def times(config: Config, names: Sequence[str], rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of an outer step with each of the methods, which take turns, and the FLOP/s of a matrix product in each round."""
    problem, a = Problem(config), torch.randn(MATRIX, MATRIX, device=config.device)
    chosen: dict[str, Callable[[], object]] = {name: partial(problem.gradient, methods(config.steps)[name]) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    rates = []
    for i in range(rounds + 1):  # the first round warms up
        product = min(seconds(lambda: a @ a, config.device) for _ in range(8))
        taken = {name: seconds(step, config.device) for name, step in chosen.items()}
        if i:
            rates.append(2 * MATRIX**3 / product)
            for name, value in taken.items():
                samples[name].append(value)
    return samples, rates


def profiled(config: Config) -> str:
    """The costliest operations of an outer step of Checkpointed(1), after one to warm up."""
    problem, method = Problem(config), with_adjoint(Checkpointed())
    problem.gradient(method)
    key = "self_cuda_time_total" if config.device == "cuda" else "self_cpu_time_total"
    with torch.profiler.profile() as profile:  # of every device there is
        problem.gradient(method)
        wait_for(config.device)
    return profile.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=60)


def seconds(f: Callable[[], object], device: str) -> float:
    wait_for(device)
    start = time.perf_counter()
    f()
    wait_for(device)
    return time.perf_counter() - start


def hush_peers() -> None:
    """No deprecation warnings of old packages, and no log of betty's on the standard output."""
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)


def do_job(job: list) -> int:
    fields, method = job
    hush_peers()
    torch.set_num_threads(fields["threads"])
    return peak(Config(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}), method)


def summary(method: str, samples: list[float], base: list[float], peak_bytes: int, flops: int, machine: float) -> dict:
    ratios = [s / b for s, b in zip(samples, base, strict=True)]
    row = {
        "method": method,
        "n": len(samples),
        "seconds": statistics.median(samples),
        "seconds_min_max": min_max(samples),
        "relative_to_plain": statistics.median(ratios),
        "relative_to_plain_min_max": min_max(ratios),
        "peak_mib": peak_bytes / MIB,
    }
    if method in TEACHERS:
        return row
    rate = flops / row["seconds"]
    return {**row, "flops_per_second": rate, "fraction_of_matrix_product": rate / machine}


def verdict(rows: list[dict]) -> dict[str, float | str]:
    """The fastest peer, and what minigtn takes relative to it."""
    peer = min((row for row in rows if row["method"] in PEERS), key=lambda row: row["seconds"])
    ours = min((row for row in rows if row["method"].startswith("minigtn")), key=lambda row: row["seconds"])
    kept = next(row for row in rows if row["method"] == "minigtn Checkpointed(1)")
    return {
        "fastest_peer": peer["method"],
        "fastest_adjoint": ours["method"],
        "fastest_adjoint_time": ours["seconds"] / peer["seconds"],
        "checkpointed_time": kept["seconds"] / peer["seconds"],
        "checkpointed_memory": kept["peak_mib"] / max(peer["peak_mib"], 0.1),
    }


def plot(rows: list[dict], title: str, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5))
    for row in rows:
        (low, high), x, y = row["seconds_min_max"], row["seconds"], max(row["peak_mib"], 0.1)
        colour = "tab:orange" if row["method"].startswith("minigtn") else "grey" if row["method"] in TEACHERS else "tab:blue"
        axes.errorbar(x, y, xerr=[[x - low], [high - x]], fmt="o", color=colour, capsize=3)
        axes.annotate(row["method"].removeprefix("minigtn "), (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8, color=colour)
    axes.set(yscale="log", xlabel="seconds per outer step (median, min-max)", ylabel="peak memory over the start [MiB]")
    axes.set_xlim(left=0)
    axes.set_title(f"One meta-gradient: {title} (orange: minigtn)", fontsize=10)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def versions_of_peers() -> dict[str, str]:
    found = {}
    for package in PACKAGES.values():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="M", help="tiny: seconds, for CI")
    parser.add_argument("--out", type=Path, help="folder for meta_gradient_<size>[_T<steps>][_pixels].json and .png")
    parser.add_argument("--rounds", type=int, help="samples of each method, in turn (default 7; tiny: 1)")
    parser.add_argument("--pixels", action="store_true", help="learn the pixels themselves instead of a generator's weights")
    parser.add_argument("--steps", type=int, help="inner steps T, where not those of the size")
    optional = [name for name in methods(1) if name not in (PLAIN, "minigtn Checkpointed(1)")]
    parser.add_argument("--without", nargs="+", default=[], choices=optional, metavar="METHOD", help="methods to leave out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--profile", action="store_true", help="also print where the time of Checkpointed(1) goes, by operation")
    parser.add_argument("--note", default="", help="anything about the machine that a reader should know")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(do_job(json.loads(args.job))))
        return
    if args.out is None:
        parser.error("--out is needed")
    hush_peers()
    torch.set_num_threads(args.threads)
    rounds = args.rounds or (1 if args.size == "tiny" else 7)
    of_this_run = {"threads": args.threads, "device": args.device, "pixels": args.pixels}
    config = dataclasses.replace(SIZES[args.size], **of_this_run)
    config = dataclasses.replace(config, steps=args.steps or config.steps)
    checked = args.size if args.size in CHECKED else CHECKED[-1]
    agree = agreement(dataclasses.replace(SIZES[checked], **of_this_run), args.without)
    skipped = {name: reason for name, reason in agree.items() if isinstance(reason, str)}
    differences = {name: difference for name, difference in agree.items() if not isinstance(difference, str)}
    flops = count_flops(config)
    title = f"size {args.size}, learner {'/'.join(map(str, (*config.channels, config.hidden)))}, B = {config.batch}, T = {config.steps}"
    title += ", learned pixels" if args.pixels else ""
    print(f"{title}; {flops / 1e9:,.1f} GFLOP with everything stored; n = {rounds}, {args.threads} threads, float32")
    print(f"float64 gradients at size {checked}, relative difference to plain unrolling: ", end="")
    print(", ".join(f"{name} {difference:.0e}" for name, difference in differences.items()))
    for name, reason in skipped.items():
        print(f"{name}: skipped, {reason}")

    precisions = precision(dataclasses.replace(SIZES[checked], **of_this_run))
    for name, effect in precisions.items():
        print("{0} beside float64: difference {relative_difference:.1e}, cosine {cosine:.8f}".format(name, **effect))
    names = [name for name in methods(config.steps) if name not in skipped]
    peaks = {name: run_apart(__file__, [dataclasses.asdict(config), name]) for name in names}
    samples, rates = times(config, names, rounds)
    machine, (low, high) = statistics.median(rates), min_max(rates)
    print(f"matrix product ({MATRIX} x {MATRIX}): {machine / 1e9:.0f} GFLOP/s ({low / 1e9:.0f}-{high / 1e9:.0f})\n")
    print(f"{'method':<30}{'seconds (min-max)':>24}{'/ plain (min-max)':>22}{'peak MiB':>10}{'GFLOP/s':>9}{'of product':>12}")
    rows = [summary(name, samples[name], samples[PLAIN], peaks[name], flops, machine) for name in names]
    for row in rows:
        spread = "{:.3f} ({:.3f}-{:.3f})".format(row["seconds"], *row["seconds_min_max"])
        ratio = "{:.2f} ({:.2f}-{:.2f})".format(row["relative_to_plain"], *row["relative_to_plain_min_max"])
        print(f"{row['method']:<30}{spread:>24}{ratio:>22}{row['peak_mib']:>10.1f}", end="")
        print(f"{row['flops_per_second'] / 1e9:>9.1f}{row['fraction_of_matrix_product']:>12.1%}" if "flops_per_second" in row else "")
    outcome = verdict(rows)
    if args.profile:
        print(profiled(config))
    print("\nbeside {fastest_peer}, the fastest peer; {fastest_adjoint} is the fastest adjoint:".format(**outcome))
    for what in ("fastest_adjoint_time", "checkpointed_time", "checkpointed_memory"):
        target = TARGETS.get(args.size, {}).get(what)
        judged = "" if target is None else f", target {target}: {'met' if outcome[what] <= target else 'NOT met'}"
        print(f"{what.replace('_', ' ')} {outcome[what]:.2f}x{judged}")

    args.out.mkdir(parents=True, exist_ok=True)
    about = environment(torch.device(args.device))
    about["versions"] |= versions_of_peers()
    record = {
        "config": {"size": args.size, "rounds": rounds, "dtype": "float32", **dataclasses.asdict(config)},
        "note": args.note,
        **about,
        "flops": flops,
        "matrix_product": {"side": MATRIX, "flops_per_second": machine, "flops_per_second_min_max": [low, high]},
        "agreement": {"size": checked, "dtype": "float64", "tolerance": TOLERANCE, "relative_difference": differences},
        "precision": {"size": checked, **precisions},
        "skipped": skipped,
        "verdict": outcome,
        "rows": rows,
    }
    name = "_".join(["meta_gradient", args.size, *[f"T{args.steps}"] * bool(args.steps), *["pixels"] * args.pixels])
    write_json(args.out / f"{name}.json", record)
    plot(rows, title, args.out / f"{name}.png")


if __name__ == "__main__":
    main()
