"""Several workers: the gradient of one process with the same learners, and no run lost with a worker."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigtn import data
from minigtn.data.datasets import Dataset, Split
from minigtn.outer.loop import MetaTraining
from minigtn.runs.distributed import Workers, workers
from minigtn.runs.files import load_tensors, read_metrics
from tiny import TINY, tiny, train

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
ROOT = Path(__file__).parents[2]
CONFIG = dataclasses.replace(
    tiny(learners=3, clip_norm=0.0), teacher=dataclasses.replace(TINY.teacher, order="batches")
)


def in_float64() -> Dataset:
    digits = data.load("digits")
    train, valid = (Split(part.x.double(), part.y) for part in (digits.train, digits.valid))
    return dataclasses.replace(digits, train=train, valid=valid)


def gradients(team: Workers, path: Path | None) -> dict[str, torch.Tensor]:
    """Two outer steps; the second one's meta-gradient."""
    training = MetaTraining(CONFIG, in_float64(), team)
    training.outer_step()
    training.outer_step()
    found = {name: p.grad for name, p in training.teacher.named_parameters() if p.grad is not None}
    if path is not None:
        save_file(found, path)
    return found


def torchrun(*words: str, folder: Path, n: int = 2) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_two_workers_give_the_gradient_of_one_with_the_same_learners(tmp_path: Path) -> None:
    process = torchrun(__file__, str(tmp_path / "two"), folder=tmp_path)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    alone = gradients(Workers(), None)
    for rank in (0, 1):
        together = load_file(tmp_path / f"two-{rank}.safetensors")
        assert together.keys() == alone.keys()
        for name, gradient in together.items():
            assert gradient.dtype == torch.float64
            torch.testing.assert_close(gradient, alone[name], rtol=1e-9, atol=1e-13)
    fewer = MetaTraining(
        dataclasses.replace(CONFIG, meta=dataclasses.replace(CONFIG.meta, learners=2)), in_float64()
    )
    fewer.outer_step()
    fewer.outer_step()
    assert not torch.allclose(fewer.teacher.lr_raw.grad, alone["lr_raw"], rtol=1e-3)  # a learner less is seen


def test_a_lost_worker_stops_the_run_and_resume_goes_on(tmp_path: Path) -> None:
    config = tiny(outer_steps=400, learners=2, valid_every=0, checkpoint_every=100)
    command = ["-m", "minigtn", *train(config, tmp_path / "run")]
    process = torchrun(*command, folder=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 400
    while len(read_metrics(metrics)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(read_metrics(metrics)) >= 5
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    victim = next(
        pid
        for pid in map(int, children)
        if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    )
    os.kill(victim, signal.SIGKILL)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode != 0
    assert "minigtn: worker 0 of 2 has lost another one" in printed
    assert "--resume goes on" in printed
    done = load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["progress"]["step"]
    assert 5 <= done < 400
    assert done % 100  # saved because of the loss, not by the clock
    short = tiny(outer_steps=400, learners=2, valid_every=0, checkpoint_every=100)
    again = MetaTraining(short, data.load("digits"))
    again.load_checkpoint(tmp_path / "run")
    assert again.outer_step().step == done + 1


def test_a_run_of_two_workers_is_written_once(tmp_path: Path) -> None:
    config = tiny(outer_steps=3, learners=2)
    process = torchrun("-m", "minigtn", *train(config, tmp_path / "run"), folder=tmp_path)
    printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert printed.count("taught by the curriculum") == 1
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["n_learners"] == 2


def test_more_workers_than_learners_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"3 workers share the meta.learners = 2 of an outer step; give at least as many"
    ):
        MetaTraining(tiny(learners=2), data.load("digits"), Workers(0, 3))


def test_shares_cover_every_learner_once() -> None:
    for n in (1, 2, 5, 8):
        for size in (1, 2, 3):
            assert sorted(i for rank in range(size) for i in Workers(rank, size).share(n)) == list(range(n))


if __name__ == "__main__":
    with workers(torch.device("cpu")) as team:
        gradients(team, Path(f"{sys.argv[1]}-{team.rank}.safetensors"))
