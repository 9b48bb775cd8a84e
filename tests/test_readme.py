"""The README's Python runs, in the order a reader would type it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_blocks_run_as_printed(capsys) -> None:
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)  # it is our own text
    share = float(capsys.readouterr().out.split("%")[0])
    assert 70 < share <= 100
    assert names["x"].grad.abs().sum() > 0
    assert names["lr"].grad.abs().min() > 0


def test_links_to_files_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    missing = [link for link in links if not (Path(__file__).parent.parent / link).exists()]
    assert not missing
