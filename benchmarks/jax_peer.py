"""JAX as a peer: ``jax_program.py`` in a process of its own, with weights and data of the torch problem."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from problem import Problem
from torch import Tensor

from minigtn.networks.layers import SLOPE
from minigtn.teaching.teacher import LR_RANGE, MOMENTUM_MAX

JAX = "JAX (jit, scan, checkpoint)"
PROGRAM = Path(__file__).with_name("jax_program.py")


def installed() -> bool:
    return find_spec("jax") is not None


class JaxPeer:
    """A context: the process, started with the weights of ``problem``.

    RuntimeError, with the process's last words, where it fails or its loss is not finite.

    ``convolution``: "native", or "products", which is faster on the CPU and takes more memory.
    """

    def __init__(self, problem: Problem, convolution: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jax_peer_")
        self._problem = problem
        folder = Path(self._folder.name)
        (folder / "problem.json").write_text(json.dumps(_settings(problem, convolution)))
        np.savez(folder / "arrays.npz", **_arrays(problem))
        self._errors = (folder / "errors.txt").open("w+")
        platform = {"cpu": "cpu", "cuda": "cuda"}[problem.config.device]
        environment = os.environ | {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> JaxPeer:
        try:
            self.first = self._answer()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
        self._folder.cleanup()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise RuntimeError(said[-1] if said else f"the process ended with {self._process.returncode}")
        answer = json.loads(line)
        if not math.isfinite(answer["loss"]):
            raise RuntimeError(f"its loss is {answer['loss']}")
        return answer

    def seconds(self) -> float:
        """One more outer step, until the device is done with it."""
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def gradient(self) -> dict[str, Tensor]:
        """The meta-gradient of the first step, named and laid out as that of ``problem.gradient``."""
        with np.load(Path(self._folder.name) / "gradient.npz", allow_pickle=False) as arrays:
            like = dict(self._problem.teacher.named_parameters())
            found = {}
            for name, p in like.items():
                key = name.removeprefix("generator.")
                found[name] = _to_torch(key, arrays[key], self._problem).to(p)
        return found


def _settings(problem: Problem, convolution: str) -> dict[str, Any]:
    constants = {
        "slope": SLOPE,
        "lr_range": LR_RANGE,
        "momentum_max": MOMENTUM_MAX,
        "convolution": convolution,
    }
    dtype = str(problem.real_x.dtype).removeprefix("torch.")
    return dataclasses.asdict(problem.config) | constants | {"dtype": dtype}


def _arrays(problem: Problem) -> dict[str, np.ndarray]:
    teacher = {name.removeprefix("generator."): p for name, p in problem.teacher.named_parameters()}
    groups = {
        "teacher": {name: _to_jax(name, p.detach(), problem) for name, p in teacher.items()},
        "learner": {name: _to_jax(name, p.detach(), problem) for name, p in problem.params.items()},
        "data": {
            "classes": problem.teacher.classes,
            "real_x": problem.real_x.movedim(1, -1),
            "real_y": F.one_hot(problem.real_y, 10).to(problem.real_x),
        },
    }
    return {f"{group}/{name}": x.cpu().numpy() for group, xs in groups.items() for name, x in xs.items()}


def _to_jax(name: str, x: Tensor, problem: Problem) -> Tensor:
    """Images channels-last, kernels (3, 3, in, out) and (in, out), flattened images to match."""
    if name == "pixels":
        return x.movedim(2, -1)
    if name.startswith("dense2-"):  # the generator's: its outputs are the pixels of an image
        x = x.unflatten(0, _grid(problem)).movedim(0, 2).flatten(0, 2)
    if name == "dense1.weight":  # the learner's: its inputs are
        channels = problem.config.channels[-1]
        side = math.isqrt(x.shape[1] // channels)
        x = x.unflatten(1, (channels, side, side)).movedim(1, 3).flatten(1)
    if x.dim() == 4:
        return x.permute(2, 3, 1, 0)
    return x.T if _is_dense_kernel(name) else x


def _to_torch(name: str, array: np.ndarray, problem: Problem) -> Tensor:
    """The inverse of :func:`_to_jax` for the teacher's parameters."""
    x = torch.from_numpy(array)
    if name == "pixels":
        return x.movedim(-1, 2)
    if x.dim() == 4:
        return x.permute(3, 2, 0, 1)
    x = x.T if _is_dense_kernel(name) else x
    if name.startswith("dense2-"):
        channels, height, width = _grid(problem)
        x = x.unflatten(0, (height, width, channels)).movedim(2, 0).flatten(0, 2)
    return x


def _is_dense_kernel(name: str) -> bool:
    return name.startswith(("dense", "head")) and name.endswith(("direction", "weight"))


def _grid(problem: Problem) -> tuple[int, int, int]:
    """Channels, height and width of what the generator's second layer makes."""
    _, height, width = problem.config.image
    return problem.config.generator[0], height // 4, width // 4
