"""What ``teach`` refuses, in one sentence, and leaves as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pupils import classifier, make, same, state
from torch import Tensor, nn

from minigtn import teach


class Returns(nn.Module):
    """A linear classifier that hands on something else than its logits."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(40, 3)
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.linear(x.flatten(1)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            classifier(classes=5),
            r"returned \(6, 5\) for a batch whose labels are \(6, 3\) \(batch, classes\)",
        ),
        (nn.Flatten(), "no parameters that require grad"),
        (nn.Linear(40, 3).requires_grad_(False), "no parameters that require grad"),
        (
            nn.Conv2d(3, 4, 3),
            r"does not take this .*, \(6, 2, 4, 5\) of torch.float32: Given",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "does not take .*: mat1 and mat2 shapes cannot be"),
        (Returns(lambda logits: (logits, logits)), "returned a tuple instead of one tensor of logits"),
        (Returns(lambda logits: {"logits": logits}), "returned a dict instead of one tensor of logits"),
        (Returns(lambda logits: logits.detach()), "do not depend on a parameter that requires grad"),
        (Returns(lambda logits: logits * torch.nan), "loss on the first batch is nan before any step"),
    ],
)
def test_teach_refuses_what_cannot_be_taught(module: nn.Module, message: str) -> None:
    before = state(module)
    for lr in ("auto", "learned"):
        with pytest.raises(ValueError, match=message) as caught:
            teach(module, make(), lr=lr)
        assert "\n" not in str(caught.value)
    assert same(module, before)


def test_a_module_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        module = classifier()
    with pytest.raises(ValueError, match=r"made under torch.inference_mode"):
        teach(module, make())


def test_weights_that_are_not_finite_are_noticed_and_kept() -> None:
    module = classifier()
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = math.nan
    before = state(module)
    with pytest.raises(ValueError, match="are its weights finite"):
        teach(module, make())
    assert same(module, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": "best"}, "lr is .auto., .learned. or a positive number, not 'best'"),
        ({"lr": -0.1}, "not -0.1"),
        ({"lr": math.nan}, "not nan"),
        ({"lr": True}, "not True"),
        ({"lr": 0.1, "optimizer": "lion"}, "optimizer is one of sgd, adam, .*, not 'lion'"),
        ({"optimizer": "sgd"}, "optimizer='sgd' goes with a number for lr, not with 'auto'"),
    ],
)
def test_wrong_step_sizes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        teach(classifier(), make(), **arguments)


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"a Curriculum .*, not Sequential and str"):
        teach(classifier(), "digits-10")  # type: ignore[arg-type]
