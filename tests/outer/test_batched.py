"""A cohort is its learners, alone or stacked."""

from __future__ import annotations

import pytest
import torch

from minigtn import SGD, Learner, MuAdam, Optimizer, data, sgd
from minigtn.outer import batched
from minigtn.outer.batched import Cohort, cohorts
from tiny import LEARNER

LEARNERS = Learner(LEARNER, (1, 8, 8), 10)
SEEDS = [3, 8, 5]


def own_batches(seeds: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    train = data.load("digits").train
    drawn = [train.draw(4, 12, torch.Generator().manual_seed(seed)) for seed in seeds]
    return [(x.double(), y) for x, y in drawn]


@pytest.mark.parametrize("shared", [True, False], ids=["one batch for all", "batches of their own"])
@pytest.mark.parametrize(("optimizer", "lr"), [(SGD(), 0.2), (MuAdam(), 0.02)], ids=["sgd", "muadam"])
def test_alone_and_stacked_are_the_same(optimizer: Optimizer, lr: float, shared: bool) -> None:
    def trained(cohort: Cohort, batches: tuple[torch.Tensor, ...]) -> list[dict[str, torch.Tensor]]:
        start = cohort.start(torch.float64)
        fitted = cohort.fitted(optimizer, start)
        return cohort.members(sgd(cohort.loss, start, batches, lr, 0.5, optimizer=fitted))

    own = own_batches(SEEDS)
    together = Cohort(LEARNERS, SEEDS)
    batches = own[0] if shared else together.batches(own)
    found = trained(together, batches)
    assert len(found) == 3
    losses = []
    for i, seed in enumerate(SEEDS):
        alone = Cohort(LEARNERS, [seed])
        batch = alone.batches([own[0 if shared else i]])
        (expected,) = trained(alone, batch)
        assert expected.keys() == found[i].keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[i][name], weight, rtol=1e-9, atol=1e-11)
        losses.append(alone.loss(alone.start(torch.float64), [part[0] for part in batch]))
    total = together.loss(together.start(torch.float64), [part[0] for part in batches])
    torch.testing.assert_close(total, torch.stack(losses).sum())
    assert len({loss.item() for loss in losses}) == 3


def test_one_alone_is_not_stacked() -> None:
    alone = Cohort(LEARNERS, SEEDS[:1])
    two = Cohort(LEARNERS, SEEDS[:2])
    for name, weight in LEARNERS.init(SEEDS[0]).items():
        assert alone.start()[name].equal(weight)
        assert two.start()[name][0].equal(weight)
        assert two.start()[name].shape == (2, *weight.shape)
    own = own_batches(SEEDS[:2])
    assert alone.batches(own[:1])[0] is own[0][0]
    assert two.batches(own)[0].shape == (4, 2, 12, 1, 8, 8)
    assert two.batches(own)[1].shape == (4, 2, 12)


def test_cohorts_take_every_seed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "most_together", lambda device: 2)
    groups = cohorts(LEARNERS, iter([4, 1, 9]), torch.device("cpu"))
    assert [list(cohort.seeds) for cohort in groups] == [[4, 1], [9]]
