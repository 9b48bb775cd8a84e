"""Scores of an untrained network, in a pass or two; the functions change the module that they are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minigtn.nas.candidate import Candidate, Score, stopwatch


@dataclass(frozen=True)
class ZeroCost:
    """A score without training, by a function of the network. Cost: for params and flops, a count; otherwise
    a pass or two."""

    name: Literal["params", "flops", "synflow", "naswot"]
    probe_images: int = 64
    tuning: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name,)

    def score(self, network: Candidate) -> dict[str, Score]:
        clock = stopwatch(network.device)
        if self.name in ("params", "flops"):
            value = float(getattr(network.space, self.name)(network.arch))
        else:
            images, _ = network.batch(0, self.probe_images)
            with network.built() as module:
                value = synflow(module, images[:1]) if self.name == "synflow" else naswot(module, images)
        return {self.name: Score(value, clock())}


def synflow(module: nn.Module, image: Tensor) -> float:
    """log sum abs(w * dR/dw), where R is the sum of the logits for an image of ones when all weights are
    their absolute values.

    ``image`` (1, C, H, W) gives shape and device only. Tanaka et al. 2020 (arXiv 2006.05467); as Abdelfattah
    et al. 2021 (arXiv 2101.08134) have it for ranking: in float64, without batch normalization, weights of
    convolutions and dense layers only. Departure: the logarithm, which leaves the ranks as they are. Memory:
    the network and its gradients in float64. Afterwards the module is of no other use.
    """
    module.double()
    for parent in list(module.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_()
    module(torch.ones_like(image, dtype=torch.float64)).sum().backward()
    flows = [
        (p.detach() * p.grad).abs().sum() for p in module.parameters() if p.dim() > 1 and p.grad is not None
    ]
    return torch.stack(flows).sum().log().item()


@torch.no_grad()
def naswot(module: nn.Module, images: Tensor) -> float:
    """log abs det K; K[i, j] counts the ReLU units that images i and j (of N, C, H, W) switch alike.

    Mellor et al. 2021 (arXiv 2006.04647). Memory: one ReLU's 0/1 codes (N, units) in float32. Raises
    ValueError for a network without nn.ReLU; minus infinity where two images switch all units alike.
    """
    alike = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def count(_: nn.Module, __: Any, output: Tensor) -> None:
        on = (output > 0).flatten(1).float()
        alike.add_(on @ on.T).add_((1 - on) @ (1 - on).T)

    relus = [part for part in module.modules() if isinstance(part, nn.ReLU | nn.ReLU6)]
    if not relus:
        raise ValueError(
            "naswot counts the units of nn.ReLU modules, and this network has none; leave naswot out"
        )
    for relu in relus:
        relu.register_forward_hook(count)
    module(images)
    return torch.linalg.slogdet(alike).logabsdet.item()
