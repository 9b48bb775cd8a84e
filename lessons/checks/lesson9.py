"""Lesson 9: accuracy after a curriculum, rank correlation, its interval, and a rank predictor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import minigtn
from checks.common import Function, Hint, exercise, judge
from checks.predict import choice, number, prediction


class _Pupil(nn.Module):
    """A linear classifier of 2x2 images that remembers in which mode it saw which images."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]))
            self.linear.bias.zero_()
        self.seen: list[tuple[Tensor, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.detach().clone(), self.training))
        return self.linear(x.flatten(1))


def _school() -> tuple[minigtn.Curriculum, minigtn.data.Dataset]:
    """Two steps that turn the pupil's answers round, and real images of which it then knows a part."""
    images = torch.eye(4)[:3].view(3, 1, 2, 2)
    x = images.expand(2, 3, 1, 2, 2).contiguous()
    y = torch.eye(3)[[1, 2, 0]].expand(2, 3, 3).contiguous()
    curriculum = minigtn.Curriculum(
        x, y, torch.full((2,), 20.0), torch.zeros(2), ("a", "b", "c"), (0.5,), (0.25,)
    )
    taught = torch.tensor([1, 2, 0])

    def split(n: int, right: int) -> minigtn.data.Split:
        """n images, of which the taught pupil knows ``right`` and the untaught one none."""
        kind = torch.arange(n).remainder(3)
        return minigtn.data.Split(
            images[kind], torch.where(torch.arange(n) < right, taught[kind], (kind + 2).remainder(3))
        )

    return curriculum, minigtn.data.Dataset(
        "check", split(30, 27), split(20, 12), split(25, 10), ("a", "b", "c"), (0.5,), (0.25,)
    )


@exercise
def check_9_taught_accuracy(taught_accuracy: Function) -> None:
    """``taught_accuracy(module, curriculum, data)``: its validation accuracy after the curriculum."""
    curriculum, data = _school()
    pupil = _Pupil()
    got = taught_accuracy(pupil, curriculum, data)
    if isinstance(got, Tensor) and got.dim():
        raise Hint("that is a number per image; return the mean over the images")
    got = float(got)
    T = len(curriculum.x)
    lessons = [
        x for x, _ in pupil.seen if x.shape == curriculum.x[0].shape and torch.equal(x, curriculum.x[0])
    ]
    if not lessons:
        raise Hint("the module has not been taught: minigtn.teach(module, curriculum) comes first")
    if len(lessons) > T:
        raise Hint(
            f"the curriculum has {T} steps and is shown once, with the same step sizes for every network "
            f'(lr="learned"); this module saw {len(lessons)}'
        )
    exam, training = pupil.seen[-1]
    if torch.equal(exam, lessons[-1]):
        raise Hint("after its lessons the module was not asked about real images: module(data.valid.x)")
    if exam.shape == data.test.x.shape:
        raise Hint(
            "that is the test part. A ranking chooses a network, and what chooses must not be what "
            "judges in the end: read data.valid"
        )
    if exam.shape == data.train.x.shape:
        raise Hint("that is the training part, which the curriculum was made from; read data.valid")
    if exam.shape == data.valid.x.shape and not torch.equal(exam, data.valid.x):
        raise Hint("data.valid.x is standardized already; give it to the module as it is")
    if training:
        raise Hint(
            "switch the module to evaluation first, with module.eval(): dropout, say, must "
            "not disturb the examination"
        )
    usual = {
        "that is the number of right answers: divide by the number of images": 12.0,
        "that is a percentage; return a fraction between 0 and 1": 60.0,
        "that is the fraction of wrong answers": 0.4,
    }
    judge("taught_accuracy(module, curriculum, data)", got, 0.6, usual)


def _ranks(values: Any, ties: float = 0.5) -> Any:
    """Ranks from 1; of equal values each gets the lowest (ties=0), the mean (0.5) or the last (1) place."""
    values = np.asarray(values)
    return 1 + (values[:, None] > values).sum(1) + ties * ((values[:, None] == values).sum(1) - 1)


def _correlation(a: Any, b: Any) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@exercise
def check_9_spearman(spearman: Function) -> None:
    """``spearman(score, truth)``: the correlation of the ranks."""
    cases = (
        ([0.3, 0.9, 0.1, 0.5, 0.7, 0.2], [80.0, 93.0, 45.0, 91.0, 85.0, 62.0]),  # no ties
        ([0.5, 0.9, 0.1, 0.5, 0.7, 0.5, 0.9], [80.0, 93.0, 62.0, 91.0, 85.0, 45.0, 85.0]),
    )
    for score, truth in (tuple(map(np.array, case)) for case in cases):
        n = len(score)
        tied = len(set(score)) < n
        order = np.argsort(score), np.argsort(truth)
        places = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (score, truth)]
        difference = _ranks(score) - _ranks(truth)
        usual = {
            "this is the correlation of the numbers themselves: take their ranks": _correlation(score, truth),
            "argsort gives the order, not the ranks: place i of it says who is i-th. Ranks are "
            "argsort of argsort, or rankdata": (_correlation(*order)),
        }
        if tied:
            usual |= {
                "equal scores must get equal ranks, the mean of their places; here their "
                "place in the list decides": _correlation(*places),
                "equal scores must get the mean of their places, not the lowest": _correlation(
                    _ranks(score, 0), _ranks(truth, 0)
                ),
                "equal scores must get the mean of their places, not the highest": _correlation(
                    _ranks(score, 1), _ranks(truth, 1)
                ),
                "the formula with squared differences holds only without ties: take the "
                "correlation of the ranks": (1 - 6 * (difference**2).sum() / (n * (n * n - 1))),
            }
        what = f"spearman of {n} networks, {'some with equal scores' if tied else 'all different'},"
        judge(what, spearman(score, truth), _correlation(_ranks(score), _ranks(truth)), usual)


@exercise
def check_9_bootstrap(bootstrap: Function) -> None:
    """``bootstrap(statistic, score, truth, resamples, seed)``: the 95 % interval over resampled networks."""
    n = 9
    resamples = 400
    score = np.arange(n) / 10
    truth = 50.0 + np.arange(n)  # so that it tells which network a score belongs to

    def ask(seed: int) -> tuple[Any, list[Any]]:
        asked: list[Any] = []

        def statistic(score: Any, truth: Any) -> float:
            asked.append((np.asarray(score), np.asarray(truth)))
            return float(
                (len(asked) - 1) ** 2
            )  # known values, not symmetric: their percentiles can be judged exactly

        return bootstrap(statistic, score, truth, resamples, seed), asked

    answer, asked = ask(3)
    if isinstance(answer, list | np.ndarray):
        answer = tuple(answer)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise Hint("return two numbers: the low and the high end of the interval")
    if len(asked) != resamples:
        raise Hint(
            f"statistic should be asked once for each of the {resamples} resamples, and "
            f"was asked {len(asked)} times"
        )
    for ours, theirs in asked:
        if ours.shape != (n,) or theirs.shape != (n,):
            raise Hint(
                f"a resample is as large as the sample: {n} networks, not {ours.shape} scores "
                f"and {theirs.shape} truths"
            )
    if all(np.array_equal(ours, score) for ours, _ in asked):
        raise Hint(
            "every resample is the sample itself: draw n of the n networks, with repetition (rng.integers)"
        )
    if any(not np.allclose(50 + 10 * ours, theirs) for ours, theirs in asked):
        raise Hint("a network keeps its truth: draw one index, and use it for score and truth together")
    if all(len(set(ours)) == n for ours, _ in asked):
        raise Hint(
            "draw with repetition: a permutation holds every network once, and no rank "
            "statistic sees the order"
        )
    if all(np.array_equal(ours, asked[0][0]) for ours, _ in asked):
        raise Hint("all resamples are the same one: make the generator once, before the loop")
    again = ask(3)[1]
    other = ask(4)[1]
    if not np.array_equal([ours for ours, _ in asked], [ours for ours, _ in again]):
        raise Hint("the same seed gave two answers: rng = np.random.default_rng(seed)")
    if np.array_equal([ours for ours, _ in asked], [ours for ours, _ in other]):
        raise Hint("another seed gave the same resamples: rng = np.random.default_rng(seed)")
    values = np.arange(resamples) ** 2.0
    mean = values.mean()
    std = values.std()
    usual = {
        "that is the 90 % interval; 95 % leaves 2.5 % on each side": np.percentile(values, [5, 95]),
        "percentile counts from 0 to 100 (quantile from 0 to 1): 2.5 and 97.5": np.percentile(
            values, [0.025, 0.975]
        ),
        "these are the smallest and the largest of all resamples": np.array([values.min(), values.max()]),
        "the statistic need not be symmetric round its mean: take percentiles, not mean and spread": (
            np.array([mean - 1.96 * std, mean + 1.96 * std])
        ),
        "the low end comes first": np.percentile(values, [97.5, 2.5]),
    }
    judge(
        "the interval", answer, np.percentile(values, [2.5, 97.5]), usual, tolerance=0.02
    )  # however percentiles are interpolated


@exercise
def check_9_predict_each(predict_each: Function) -> None:
    """``predict_each(features, truth)``: each network's truth by a line fitted to the others."""
    rng = np.random.default_rng(5)
    n = 9
    features = rng.normal(size=(n, 2)) + 3
    truth = 80 + features @ [2.0, -1.0] + rng.normal(size=n)
    kept = features.copy(), truth.copy()
    ones = np.ones(n)

    def predictions(A: Any, of: Any = None, leave: Any = None) -> Any:
        """Fitted to all networks but ``leave(i)``, read at network i."""
        answer = np.empty(n)
        for i in range(n):
            others = np.ones(n, bool) if leave is None else np.arange(n) != leave(i)
            A_i = A if of is None else of(A, others)
            coefficients = np.linalg.lstsq(A_i[others], truth[others], rcond=None)[0]
            answer[i] = A_i[i] @ coefficients
        return answer

    A = np.column_stack([ones, features])
    means = np.array([np.delete(truth, i).mean() for i in range(n)])
    right = predictions(A, leave=lambda i: i)
    usual = {
        "each network was among those that it was predicted from: leave it out of the fit": predictions(A),
        "the constant is missing: a column of ones before the features": predictions(
            features, leave=lambda i: i
        ),
        "the wrong network was left out: it is number i that is predicted": predictions(
            A, leave=lambda i: (i + 1) % n
        ),
        "only the first feature was used": predictions(A[:, :2], leave=lambda i: i),
        "that is the mean of the others: the features should have a say": means,
        "these are the errors: return the predictions": right - truth,
        "these are the errors, truth minus prediction: return the predictions": truth - right,
    }
    got = predict_each(features, truth)
    if not (np.array_equal(features, kept[0]) and np.array_equal(truth, kept[1])):
        raise Hint("features or truth have changed: work on a copy")
    judge("predict_each(features, truth)", got, right, usual)


@prediction
def predict_9_as_it_is(guess: Any, answer: float) -> str:
    """Accuracy in percent of the deep networks after the curriculum as it is."""
    return number(
        guess,
        answer,
        near="Little more than guessing, 10 %: the learned steps are much too long for these networks.",
        low="Ten classes: guessing alone gives 10 %.",
        high="It was made for one small learner: the learned steps are much too long for deep ones.",
        factor=1.3,
        apart=6,
        percent=True,
    )


@prediction
def predict_9_best_score(guess: Any, answer: str) -> str:
    """Which score ranks the networks best."""
    return choice(
        guess,
        answer,
        {
            "p": "Weights are many where the images are small, and there they do little.",
            "f": "A plain count, without any training, that few of the others beat.",
            "s": "It needs one blank image, and is not far behind.",
            "n": "Untrained ReLUs tell something, and much of it is size.",
            "c": "It teaches digits; the truth is CIFAR-10, after hours of training.",
            "r": "After ten steps the order is not yet that of the trained networks.",
            "t": "What learns fast in ten steps need not be what is best in the end.",
        },
    )
