"""Where to compute, and how data get there."""

from __future__ import annotations

import pytest
import torch

from minigtn.runs.devices import choose, sent


def test_a_cpu_tensor_that_is_sent_to_the_cpu_is_itself() -> None:
    x = torch.arange(3.0)
    assert sent(x, torch.device("cpu")) is x


@pytest.mark.gpu
def test_what_is_sent_arrives(no_sync) -> None:
    x = torch.arange(3.0)
    with no_sync():
        there = sent(x, torch.device("cuda"))
        same = sent(there, torch.device("cuda"))
    assert there.is_cuda
    assert same is there
    assert there.cpu().equal(x)


def test_the_cpu_is_chosen_with_its_threads() -> None:
    try:
        assert choose("cpu", threads=2) == torch.device("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    with pytest.raises(ValueError, match="--threads must be at least 1, not 0"):
        choose("cpu", threads=0)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="torch sees no CUDA device; use --device cpu"):
        choose("cuda")
