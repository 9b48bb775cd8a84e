"""``teach`` over the common layers of torch.nn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pupils import SIZE, of_four_classes, right, taught
from torch import Tensor, nn

from minigtn import Curriculum


@pytest.fixture(scope="module")
def curriculum() -> Curriculum:
    return of_four_classes()


class Recurrent(nn.Module):
    """A recurrent layer over the rows of an image."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(16, 12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2).flatten(2))[0][:, -1]


class Attention(nn.Module):
    """Self-attention over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        return self.layer(rows, rows, rows, need_weights=False)[0].flatten(1)


class Embedded(nn.Module):
    """Pixels rounded to words."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Embedding(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x.round() + 2).clamp(0, 4).long()).flatten(1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 16)),
    "Conv2d": lambda: nn.Conv2d(2, 6, 3, padding="same", padding_mode="reflect"),
    "Conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 4, 5, stride=2)),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 3, 2, stride=2),
    "BatchNorm2d": lambda: nn.BatchNorm2d(2),
    "BatchNorm1d": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(SIZE)),
    "LayerNorm": lambda: nn.LayerNorm([2, 8, 8]),
    "GroupNorm": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
    "MaxPool2d": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)),
    "AvgPool2d": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2)),
    "AdaptiveAvgPool2d": lambda: nn.Sequential(nn.Conv2d(2, 16, 3), nn.AdaptiveAvgPool2d(2)),
    "Dropout": lambda: nn.Dropout(0.2),
    "Dropout2d": lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.Dropout2d(0.2)),
    "ReLU": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True)),
    "GELU": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU()),
    "PReLU": lambda: nn.PReLU(2),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "MultiheadAttention": Attention,
    "TransformerEncoderLayer": lambda: nn.Sequential(
        nn.Flatten(2), nn.TransformerEncoderLayer(64, 4, 32, batch_first=True)
    ),
    "Embedding": Embedded,
}


@pytest.mark.parametrize("name", LAYERS)
def test_common_layers_are_taught(name: str, curriculum: Curriculum) -> None:
    torch.manual_seed(0)
    first = LAYERS[name]()
    features = first(curriculum.x[0]).flatten(1).shape[1]
    module = nn.Sequential(first, nn.Flatten(), nn.Linear(features, 4))
    taught(module, curriculum)
    assert right(module.eval(), curriculum) > 0.6
