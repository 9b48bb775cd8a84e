"""A small network that is trained for four steps, and what a test of its meta-gradient needs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import minigtn
from minigtn import Checkpointed, Readout, Reversible
from minigtn.studies.problems import relative_difference

KEPT = (Checkpointed(), Checkpointed(2))
TAPED = (*KEPT, Reversible())


def network(*layers, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2)).to(dtype)


def data(dtype=torch.float64, steps=4):
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(steps, 5, 3, dtype=torch.float64, generator=rng).to(dtype)
    return x, torch.arange(5).remainder(2).expand(steps, 5)


def loss_of(module):
    def loss(params, batch):
        return F.cross_entropy(torch.func.functional_call(module, params, (batch[0],)), batch[1])

    return loss


def start(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Run:
    """A run, from the start to the gradient by its images and lr."""

    def __init__(
        self, module, adjoint, loss=None, readout=None, optimizer=None, dtype=torch.float64, **kwargs
    ):
        torch.manual_seed(5)
        x, y = data(dtype)
        self.leaves = [x.requires_grad_(), torch.full((4,), 0.5, dtype=dtype).requires_grad_()]
        self.judge = copy.deepcopy(module).eval()
        reading = None if readout is None else Readout(readout, data(dtype, 2), 2)
        loss = loss or loss_of(module)
        (x, lr) = self.leaves
        result = minigtn.sgd(loss, start(module), (x, y), lr, 0.5, adjoint, reading, optimizer, **kwargs)
        self.trained, self.readings = (result, x[:0]) if readout is None else result

    def gradients(self):
        x, y = data(self.leaves[0].dtype, 1)
        value = loss_of(self.judge)(self.trained, (x[0], y[0])) + self.readings.sum()
        return torch.autograd.grad(value, self.leaves)


def assert_agree(found, expected, tolerance=1e-7):
    for d, right in zip(found, expected, strict=True):
        assert right.abs().max() > 1e-6
        assert relative_difference(d, right) < tolerance


def refused(match, kind=ValueError):
    return pytest.raises(kind, match=match)
