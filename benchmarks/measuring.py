"""Agreement, precision, operations, memory and seconds of the methods of ``meta_gradient.py``."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from common import forget_peak, memory_bytes, wait_for
from jax_peer import JAX, JaxPeer, installed
from methods import COMPILED, TEACHERS, as_its_user, compiles, methods, with_adjoint
from peers import PACKAGES, PLAIN, plain
from problem import SIZES, Config, Problem
from resident import give_back_memory
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minigtn import Checkpointed
from minigtn.runs.devices import choose
from minigtn.studies.problems import relative_difference

TOLERANCE = 1e-8  # of float64 gradients
XLA_TOLERANCE = 1e-5  # of JAX's: 8e-10 on the CPU, 4e-6 by XLA's kernels for one H100
MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the matrix product that the machine is measured by
CONVOLUTION = {"cpu": "products", "cuda": "native"}  # JAX's faster one


# ---- agreement ---------------------------------------------------------------------------------------------


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference of any parameter's gradient; infinite where one is missing."""
    if expected.keys() - found.keys():
        return math.inf
    return max(relative_difference(found[key], g) for key, g in expected.items())


def agreement(config: Config, without: Sequence[str]) -> dict[str, float | str]:
    """Each method's largest relative difference to plain unrolling in float64, or why it cannot be measured.

    SystemExit where a method of minigtn's differs by more than TOLERANCE.
    """
    problem = Problem(config, torch.float64)
    problem.vary()
    expected = problem.gradient(plain)
    candidates = {name: partial(problem.gradient, method) for name, method in methods(config).items()}
    candidates[JAX] = partial(_jax_gradient, problem)
    result: dict[str, float | str] = {}
    for name, gradient in candidates.items():
        if name == PLAIN or name in TEACHERS:
            continue
        result[name] = "left out" if name in without else _judged(name, gradient, expected)
    if not compiles():
        result[COMPILED] = "this minigtn has no Checkpointed(compile=True)"
    return result


def _judged(name: str, gradient: Callable[[], dict[str, Tensor]], expected: dict[str, Tensor]) -> float | str:
    foreign = name in PACKAGES or name == JAX
    try:
        with as_its_user(name):
            found = gradient()
    except ImportError as error:
        return f"not installed (no module {error.name})"
    except Exception as error:  # a peer may fail in any way with this version of torch; minigtn may not
        if not foreign:
            raise
        return f"fails with {type(error).__name__}: {str(error).replace(sys.prefix, '')}"
    apart = difference(found, expected)
    if apart <= (XLA_TOLERANCE if name == JAX else TOLERANCE):
        return apart
    if not foreign:
        raise SystemExit(f"{name} refused: its gradient differs by {apart:.1e}; nothing was timed")
    return f"refused: its gradient differs by {apart:.1e}"


def _jax_gradient(problem: Problem) -> dict[str, Tensor]:
    if not installed():
        raise ImportError("jax is not installed", name="jax")
    with JaxPeer(problem, CONVOLUTION[problem.config.device]) as peer:
        return peer.gradient()


def precision(config: Config) -> dict[str, dict[str, float]]:
    """What arithmetic does to the meta-gradient: relative length of the difference to float64's, and cosine.

    float32; bfloat16 learners with float32 weights, state and generator; on CUDA also TF32 products.
    """

    def flat(dtype: torch.dtype, compute: torch.dtype | None = None, products: str = "float32") -> Tensor:
        choose(config.device, config.threads, products)
        problem = Problem(config, torch.float64)
        problem.vary()
        problem.params = {name: p.to(dtype) for name, p in problem.params.items()}
        problem.real_x = problem.real_x.to(dtype)
        problem.teacher.to(dtype)
        found = problem.gradient(with_adjoint(Checkpointed(), compute))
        return _flat(found)

    exact = flat(torch.float64)
    found = {"float32": flat(torch.float32), "bfloat16 learner": flat(torch.float32, torch.bfloat16)}
    if config.device == "cuda":
        found["float32 with TF32 products"] = flat(torch.float32, products="tf32")
    choose(config.device, config.threads, config.precision)
    return {
        name: {
            "relative_difference": ((d - exact).norm() / exact.norm()).item(),
            "cosine": F.cosine_similarity(d, exact, dim=0).item(),
        }
        for name, d in found.items()
    }


def _flat(gradient: dict[str, Tensor]) -> Tensor:
    """All of it as one float64 vector."""
    return torch.cat([d.double().flatten() for _, d in sorted(gradient.items())])


# ---- operations, memory, seconds ---------------------------------------------------------------------------


def count_flops(config: Config) -> int:
    """Floating-point operations of plain unrolling, there and back, counted without computing anything."""
    problem = Problem(dataclasses.replace(config, device="meta"))
    with FlopCounterMode(display=False) as counter:
        plain(problem)
    return counter.get_total_flops()


def peak(config: Config, name: str) -> int:
    """Bytes that an outer step adds to what is held once all code is loaded; on the CPU in a fresh process.

    It is the first step, whatever it captures included; what compiling itself takes on the CPU is not.
    """
    run = methods(config)[name]
    problem = Problem(config)
    tiny = dataclasses.replace(SIZES["tiny"], device=config.device, pixels=config.pixels)
    with as_its_user(name):
        if name != COMPILED:
            Problem(tiny).gradient(methods(tiny)[name])  # imports, thread pools
        wait_for(config.device)
        before, _ = memory_bytes(config.device)
        if name == COMPILED:
            problem.gradient(run)
            problem.teacher.zero_grad(set_to_none=True)
            give_back_memory()
            before = memory_bytes("cpu")[0] if config.device == "cpu" else before
        forget_peak(config.device)
        problem.gradient(run)
        wait_for(config.device)
    return memory_bytes(config.device)[1] - before


def times(
    config: Config, names: Sequence[str], rounds: int
) -> tuple[dict[str, list[float]], list[float], dict]:
    """Seconds of an outer step by each of the methods, which take turns; FLOP/s of a matrix product in each
    round; what JAX's first step said (empty without JAX). The first sample of each method is of the warm-up.
    """
    problem = Problem(config)
    side = MATRIX[config.device]
    a = torch.randn(side, side, device=config.device)
    every = methods(config)
    samples: dict[str, list[float]] = {name: [] for name in names}
    rates = []
    with contextlib.ExitStack() as stack:
        jax = None
        if JAX in samples:
            try:
                jax = stack.enter_context(JaxPeer(problem, CONVOLUTION[config.device]))
            except RuntimeError as error:  # too little memory, perhaps: that costs no other method its row
                print(f"{JAX}: skipped, {error}", flush=True)
                del samples[JAX]
        for i in range(rounds + 1):
            product = min(seconds(lambda: a @ a, config.device) for _ in range(8))
            rates.append(2 * side**3 / product)
            for name in samples:
                if name == JAX:
                    samples[name].append(jax.seconds())
                    continue
                with as_its_user(name):
                    samples[name].append(seconds(partial(problem.gradient, every[name]), config.device))
            taken = ", ".join(f"{name} {samples[name][-1]:.3f}" for name in samples)
            # all that is left of a run that is cut short
            print(f"round {i} of {rounds}: {taken}", flush=True)
        if jax is None:
            return samples, rates[1:], {}
        apart = relative_difference(_flat(jax.gradient()), _flat(problem.gradient(plain)))
        return samples, rates[1:], jax.first | {"relative_difference_to_plain": apart}


def profiled(config: Config) -> str:
    """The costliest operations of an outer step of Checkpointed(1), after one to warm up."""
    problem = Problem(config)
    method = with_adjoint(Checkpointed())
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
