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


def spearman_by_hand(score, truth):
    centred = []
    for values in (score, truth):
        ranks = (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2
        centred.append(ranks - ranks.mean())
    a, b = centred
    return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())


def predict_each(
    leave=lambda i: i, constant=True, use=slice(None), result=lambda p, truth: p, in_place=False
):
    """Lesson 9's function with one thing wrong."""

    def answer(features, truth):
        n = len(truth)
        A = features[:, use]
        if in_place:
            features -= features.mean(0)
        if constant:
            A = np.column_stack([np.ones(n), A])
        predicted = np.empty(n)
        for i in range(n):
            others = np.arange(n) != leave(i)
            predicted[i] = A[i] @ np.linalg.lstsq(A[others], truth[others], rcond=None)[0]
        return result(predicted, truth)

    return answer


def mean_of_others(features, truth):
    return (truth.sum() - truth) / (len(truth) - 1)


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
    ("9_predict_each", predict_each(leave=lambda i: -1), "leave it out of the fit"),
    ("9_predict_each", predict_each(constant=False), "the constant is missing"),
    ("9_predict_each", predict_each(leave=lambda i: (i + 1) % 9), "the wrong network was left out"),
    ("9_predict_each", predict_each(use=slice(1)), "only the first feature"),
    ("9_predict_each", predict_each(result=lambda p, truth: p - truth), "these are the errors"),
    ("9_predict_each", predict_each(result=lambda p, truth: truth - p), "truth minus prediction"),
    ("9_predict_each", predict_each(result=lambda p, truth: p[0]), "the shape"),
    ("9_predict_each", predict_each(in_place=True), "work on a copy"),
    ("9_predict_each", mean_of_others, "should have a say"),
]
RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("9_taught_accuracy", taught_accuracy()),
    ("9_spearman", of_ranks()),
    ("9_spearman", lambda score, truth: spearmanr(score, truth).statistic),
    ("9_bootstrap", bootstrap()),
    ("9_spearman", spearman_by_hand),
    ("9_predict_each", predict_each()),
]
GUESSES: list[tuple[str, Any, Any, str]] = [
    ("9_as_it_is", 15, 19.7, "Near"),
    ("9_as_it_is", 2, 19.7, "guessing alone"),
    ("9_as_it_is", 90, 19.7, "one small learner"),
    ("9_best_score", "f", "n", "without any training"),
    ("9_best_score", "p", "n", "many where the images are small"),
    ("9_best_score", "s", "n", "one blank image"),
    ("9_best_score", "n", "n", "much of it is size"),
    ("9_best_score", "c", "n", "the truth is CIFAR-10"),
    ("9_best_score", "r", "n", "not yet that of the trained"),
    ("9_best_score", "t", "n", "learns fast in ten steps"),
]
