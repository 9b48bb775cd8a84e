"""Right and wrong answers to the exercises of lesson 9."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr

import minigtn


def taught_accuracy(
    taught=True,
    again=False,
    learned=True,
    on="valid",
    standardize=False,
    evaluate=True,
    asked=True,
    result="fraction",
):
    """Lesson 9's function with one thing wrong."""

    def answer(module, curriculum, data):
        for _ in range(taught + again):
            minigtn.teach(module, curriculum, lr="learned" if learned else "auto")
        if not asked:
            return 0.5
        module.train(not evaluate)
        split = getattr(data, on)
        with torch.no_grad():
            right = module(curriculum.standardize(split.x) if standardize else split.x).argmax(1) == split.y
        mean = right.float().mean().item()
        return {
            "fraction": mean,
            "percent": 100 * mean,
            "sum": right.sum().item(),
            "wrong": 1 - mean,
            "each": right,
        }[result]

    return answer


def of_ranks(method="average"):
    return lambda score, truth: np.corrcoef(rankdata(score, method), rankdata(truth, method))[0, 1]


def by_formula(score, truth):
    n = len(score)
    return 1 - 6 * np.sum((rankdata(score) - rankdata(truth)) ** 2) / (n * (n * n - 1))


def bootstrap(
    together=True,
    replace=True,
    each=None,
    ends=(2.5, 97.5),
    fixed=False,
    inside=False,
    size=None,
    symmetric=False,
):
    def answer(statistic, score, truth, resamples=1000, seed=0):
        rng = np.random.default_rng(0 if fixed else seed)
        n = len(score)
        values = []
        for _ in range(each or resamples):
            if inside:
                rng = np.random.default_rng(seed)
            index = rng.choice(n, size or n, replace=replace)
            values.append(statistic(score[index], truth[index if together else rng.integers(n, size=n)]))
        if symmetric:
            return np.mean(values) - 1.96 * np.std(values), np.mean(values) + 1.96 * np.std(values)
        return tuple(np.percentile(values, ends))

    return answer


def regret(score, truth):
    return truth.max() - truth[score == score.max()].mean()


def pearson(score, truth):
    return np.corrcoef(score, truth)[0, 1]


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("9_taught_accuracy", taught_accuracy(taught=False), "has not been taught"),
    ("9_taught_accuracy", taught_accuracy(again=True), "shown once"),
    ("9_taught_accuracy", taught_accuracy(learned=False), 'lr="learned"'),
    ("9_taught_accuracy", taught_accuracy(asked=False), "not asked about real images"),
    ("9_taught_accuracy", taught_accuracy(on="test"), "that is the test part"),
    ("9_taught_accuracy", taught_accuracy(on="train"), "that is the training part"),
    ("9_taught_accuracy", taught_accuracy(standardize=True), "standardized already"),
    ("9_taught_accuracy", taught_accuracy(evaluate=False), "module.eval()"),
    ("9_taught_accuracy", taught_accuracy(result="percent"), "that is a percentage"),
    ("9_taught_accuracy", taught_accuracy(result="sum"), "divide by the number of images"),
    ("9_taught_accuracy", taught_accuracy(result="wrong"), "fraction of wrong answers"),
    ("9_taught_accuracy", taught_accuracy(result="each"), "a number per image"),
    ("9_spearman", pearson, "the numbers themselves"),
    ("9_spearman", lambda s, t: pearson(np.argsort(s), np.argsort(t)), "gives the order, not the ranks"),
    ("9_spearman", of_ranks("ordinal"), "their place in the list decides"),
    ("9_spearman", of_ranks("min"), "not the lowest"),
    ("9_spearman", of_ranks("max"), "not the highest"),
    ("9_spearman", by_formula, "only without ties"),
    ("9_spearman", lambda s, t: -of_ranks()(s, t), "wrong sign"),
    ("9_spearman", lambda s, t: spearmanr(s, t), "shape"),
    ("9_bootstrap", bootstrap(together=False), "keeps its truth"),
    ("9_bootstrap", bootstrap(replace=False), "draw with repetition"),
    ("9_bootstrap", bootstrap(each=100), "once for each of the 400 resamples"),
    ("9_bootstrap", bootstrap(size=5), "as large as the sample"),
    ("9_bootstrap", bootstrap(inside=True), "once, before the loop"),
    ("9_bootstrap", bootstrap(fixed=True), "another seed gave the same"),
    ("9_bootstrap", bootstrap(ends=(5, 95)), "the 90 % interval"),
    ("9_bootstrap", bootstrap(ends=(0.025, 0.975)), "from 0 to 100"),
    ("9_bootstrap", bootstrap(ends=(0, 100)), "smallest and the largest"),
    ("9_bootstrap", bootstrap(ends=(97.5, 2.5)), "the low end comes first"),
    ("9_bootstrap", bootstrap(symmetric=True), "need not be symmetric"),
    (
        "9_bootstrap",
        lambda f, s, t, resamples, seed: tuple([f(s, t) for _ in range(resamples)][:2]),
        "the sample itself",
    ),
    (
        "9_bootstrap",
        lambda f, s, t, resamples, seed: bootstrap()(f, s, t, resamples, None),
        "the same seed gave two answers",
    ),
    ("9_bootstrap", lambda f, s, t, resamples, seed: 0.5, "return two numbers"),
    ("9_regret", lambda score, truth: truth[score.argmax()], "what is missing to the best"),
    ("9_regret", lambda score, truth: truth.max() - score.max(), "in other units"),
    ("9_regret", lambda score, truth: score.max() - score[truth.argmax()], "read the truth"),
    ("9_regret", lambda score, truth: truth.max() - truth[score.argmin()], "choose the best-scored"),
    ("9_regret", lambda score, truth: np.ptp(truth), "spread"),
    ("9_regret", lambda score, truth: -regret(score, truth), "the regret is positive"),
    ("9_regret", lambda score, truth: truth.max() - truth[score.argmax()], "share the best score"),
    ("9_regret", lambda score, truth: truth.max() - truth[score == score.max()].max(), "not the better one"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("9_taught_accuracy", taught_accuracy()),
    ("9_spearman", of_ranks()),
    ("9_spearman", lambda score, truth: spearmanr(score, truth).statistic),
    ("9_bootstrap", bootstrap()),
    ("9_regret", regret),
]
