"""Right and wrong answers to the exercises of the capstone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from answers import capstone


def make_data(
    shuffled=True, seeded=True, units="train", labels=True, overlap=0, flat=True, dtype=torch.float32, parts=3
):
    def answer(seed):
        digits = load_digits()
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(1797, generator=rng if seeded else None) if shuffled else torch.arange(1797)
        x = torch.tensor(digits.data, dtype=dtype)[order]
        y = torch.tensor(digits.target)[order if labels else torch.arange(1797)]
        if units == "pixel":
            x = (x - x[:1000].mean(0)) / (x[:1000].std(0) + 1e-3)
        elif units != "none":
            of = x[:1000] if units == "train" else x
            x = (x - of.mean()) / of.std()
        if not flat:
            x = x.view(-1, 8, 8)
        cuts = {
            "train": slice(0, 1000),
            "valid": slice(1000, 1297),
            "test": slice(1297 - overlap, 1797 - overlap),
        }
        return {name: (x[cut], y[cut]) for name, cut in list(cuts.items())[:parts]}

    return answer


def fresh(fixed=False, scale=1.0, grad=True, layers=2, unseeded=False, tuple_=False):
    def answer(seed):
        rng = None if unseeded else torch.Generator().manual_seed(0 if fixed else seed)
        sizes = [(64, 64), (64,), (10, 64), (10,)][4 - 2 * layers :]
        w = [scale * torch.randn(s, generator=rng) / 8 for s in sizes]
        w = [p.requires_grad_(grad) for p in w]
        return tuple(w) if tuple_ else w

    return answer


def linear(w, x):
    return F.linear(x, w[0], w[1])


def no_activation(w, x):
    return F.linear(F.linear(x, w[0], w[1]), w[2], w[3])


def own_weights(w, x):
    return capstone.forward([p.detach() for p in w], x)


def without_last_bias(w, x):
    return F.linear(torch.relu(F.linear(x, w[0], w[1])), w[2])


def activated(function, layers=2) -> Callable[..., Any]:
    """Two layers without biases, and a function between them; odd where the function is."""
    return lambda w, x: F.linear(function(F.linear(x, w[0])), w[1])


def fresh_without_biases(head=1.0, first=1.0) -> Callable[..., Any]:
    def answer(seed):
        rng = torch.Generator().manual_seed(seed)
        w = [first * torch.randn(64, 64, generator=rng) / 8, head * torch.randn(10, 64, generator=rng) / 8]
        return [p.requires_grad_() for p in w]

    return answer


def probabilities(w, x):
    return capstone.forward(w, x).softmax(1)


def step(
    graph=True,
    velocity="right",
    moves="new",
    sign=-1,
    rate=True,
    in_place=False,
    cut=(),
    last=None,
    pair=tuple,
) -> Callable[..., Any]:
    def answer(objective, w, v, lr, m):
        lr = lr.detach() if "lr" in cut else lr
        m = m.detach() if "m" in cut else m
        g = torch.autograd.grad(objective(w), w, create_graph=graph)
        new = {
            "right": [m * (b.detach() if "v" in cut else b) + a for a, b in zip(g, v, strict=True)],
            "average": [m * b + (1 - m) * a for a, b in zip(g, v, strict=True)],
            "missing": list(g),
            "plain": [b + a for a, b in zip(g, v, strict=True)],
            "scaled": [m * b + lr * a for a, b in zip(g, v, strict=True)],
        }[velocity]
        move = {"new": new, "old": v, "gradient": g}[moves]
        if in_place:
            with torch.no_grad():
                for p, d in zip(w, move, strict=True):
                    p -= lr * d
            return w, new
        w = [p + sign * (lr if rate else 1) * d for p, d in zip(w, move, strict=True)]
        new = [b.detach() for b in new] if "new v" in cut else new
        return pair([w, new]) if last is None else w

    return answer


def train(
    batch=lambda t: t,
    rate=lambda t: t,
    momentum=lambda t: t,
    order=lambda T: range(T),
    reset=False,
    between=lambda w: w,
    plain=False,
) -> Callable[..., Any]:
    def answer(batch_loss, w, lesson):
        x, y, lr, m = lesson
        v = [torch.zeros_like(p) for p in w]
        for t in order(len(x)):

            def objective(w, t=t):
                return batch_loss(w, x[batch(t)], y[batch(t)])

            if reset:
                v = [torch.zeros_like(p) for p in w]
            step_size = lr[rate(t)].item() if plain else lr[rate(t)]
            w, v = capstone.step(objective, w, v, step_size, m[momentum(t)])
            w = between(w)
        return w

    return answer


def meta_loss(
    trained=True, own=False, result=lambda v: v, lesson_of=lambda lesson: lesson
) -> Callable[..., Any]:
    def answer(batch_loss, w, lesson, exam):
        if trained:
            w = capstone.train(batch_loss, w, lesson_of(lesson))
        return result(batch_loss(w, lesson[0][-1], lesson[1][-1]) if own else batch_loss(w, *exam))

    return answer


def gradient_error(
    h=1e-5,
    sides=2,
    draw=torch.randn,
    slope="autograd",
    in_place=(),
    absolute=True,
    first=False,
    text=False,
    divide="first",
    sides_in=torch.enable_grad,
) -> Callable[..., Any]:
    def answer(f, theta, seed):
        rng = torch.Generator().manual_seed(seed)
        u = [draw(p.shape, generator=rng, dtype=p.dtype) for p in theta]
        u = [u[0], *[torch.zeros_like(p) for p in u[1:]]] if first else u
        g = torch.autograd.grad(f(theta), theta)
        ours = sum((a * b).sum().item() for a, b in zip(g, u, strict=True))

        def moved(h):
            with sides_in():
                return f(
                    [(p + h * b).detach().requires_grad_() for p, b in zip(theta, u, strict=True)]
                ).item()

        def shift(by):
            with torch.no_grad():
                for p, b in zip(theta, u, strict=True):
                    p += by * b

        low = -h if sides == 2 else 0.0
        theirs = (moved(h) - moved(low)) / (h - low)
        ours = theirs if slope == "numbers" else ours
        for by in in_place:
            shift(by * h)
        error = (ours - theirs) / ({"first": abs(ours), "second": abs(theirs), "none": 1.0}[divide] + 1e-12)
        if absolute == "never":
            return error
        error = abs(error) if absolute else -abs(error) - 1e-13
        return [error, error] if text else error

    return answer


def ones(shape, generator, dtype):
    return torch.ones(shape, dtype=dtype)


def teacher(
    z="each",
    rates="log",
    momenta="sigmoid",
    labels="balanced",
    pixels=False,
    seed="used",
    flat=True,
    extra=False,
    learned=True,
    sees_class=True,
    begin=0.1,
    in_list=False,
    generator=lambda n: torch.nn.Linear(n, 64),
) -> type[torch.nn.Module]:
    class Answer(torch.nn.Module):
        def __init__(self, T, B, number):
            super().__init__()
            if seed != "ignored":
                torch.manual_seed(0 if seed == "fixed" else number)
            shape = {"each": (T, B, 8), "step": (T, 1, 8), "image": (1, B, 8)}[z]
            vectors = torch.randn(T, B, 64) if pixels else torch.randn(shape)
            if learned:
                self.z = torch.nn.Parameter(vectors)
            else:
                self.register_buffer("z", vectors)
            if not pixels:
                self.generator = generator(18)
            if extra:
                self.unused = torch.nn.Parameter(torch.zeros(3))
            self.lr = torch.nn.Parameter(
                torch.full((T,), begin if rates in ("plain", "itself") else math.log(begin))
            )
            self.m = torch.nn.Parameter(torch.full((T,), 0.5))
            classes = {
                "balanced": torch.arange(B) % 10,
                "one": torch.zeros(B).long(),
                "sorted": torch.arange(B) // (B // 10),
            }[labels]
            self.y = classes.expand(T, B)

        def forward(self):
            T, B = self.y.shape
            classes = F.one_hot(self.y, 10) * sees_class
            inputs = torch.cat([self.z.expand(T, B, -1), classes], -1)
            x = self.z if pixels else self.generator(inputs)
            lr = {
                "log": self.lr.exp,
                "plain": lambda: self.lr * 1,
                "itself": lambda: self.lr,
                "cut": self.lr.exp().detach,
            }[rates]()
            m = {
                "sigmoid": lambda: torch.sigmoid(self.m),
                "steep": lambda: torch.sigmoid(6 * self.m),
                "plain": lambda: self.m * 1,
                "itself": lambda: self.m,
                "clamp": lambda: self.m.clamp(0, 1),
            }[momenta]()
            lesson = [x if flat else x.view(T, B, 8, 8), self.y, lr, m]
            return lesson if in_list else tuple(lesson)

    return Answer


class normalized(torch.nn.Module):
    """A generator with batch norm over all images of the lesson: each image depends on every z."""

    def __init__(self, n):
        super().__init__()
        self.one = torch.nn.Linear(n, 40)
        self.norm = torch.nn.BatchNorm1d(40)
        self.two = torch.nn.Linear(40, 64)

    def forward(self, z):
        h = self.norm(self.one(z.flatten(0, 1)))
        return self.two(F.relu(h)).view(*z.shape[:2], 64)


def meta_train(
    each=True,
    anew=True,
    zero=True,
    move=True,
    sign=1,
    plain=True,
    result="list",
    lr=0.01,
    count=0,
    after=False,
) -> Callable[..., Any]:
    def answer(teacher, objective, steps):
        adam = torch.optim.Adam(teacher.parameters(), lr=lr)
        history = []
        lesson = teacher()
        for i in range(steps + count):
            if zero:
                adam.zero_grad()
            value = objective(teacher() if anew else lesson, i if each else 0)
            (sign * value).backward()
            if move:
                adam.step()
            history.append((value.item() + after) if plain else value)
        return history if result == "list" else history[-1]

    return answer


def judge(part="test", seeds=lambda s: s, reduce=lambda a: a, twice=False) -> Callable[..., Any]:
    def answer(taught, data, numbers):
        x, y = data[part]
        if twice:
            [taught(seed) for seed in numbers]
        with torch.no_grad():
            right = [(taught(s)(x).argmax(1) == y).float().mean() for s in seeds(list(numbers))]
        return reduce(torch.stack(right))

    return answer


WRONG: list[tuple[str, Any, str]] = [
    ("12_make_data", make_data(shuffled=False), "shuffle before you cut"),
    ("12_make_data", make_data(seeded=False), "the same seed gave two splits"),
    ("12_make_data", make_data(units="all"), "must not have a say"),
    ("12_make_data", make_data(units="none"), "mean 0 and standard deviation 1"),
    ("12_make_data", make_data(units="pixel"), "two plain numbers"),
    ("12_make_data", make_data(labels=False), "no longer belong together"),
    ("12_make_data", make_data(overlap=50), "some are in two"),
    ("12_make_data", make_data(flat=False), "the shape"),
    ("12_make_data", make_data(dtype=torch.float64), "x is float32"),
    ("12_make_data", make_data(parts=2), "the three parts"),
    ("12_learner", (fresh(layers=1), linear), "the logits are linear"),
    ("12_learner", (fresh(), no_activation), "put a nonlinear function"),
    ("12_learner", (fresh(fixed=True), capstone.forward), "another seed gave the same network"),
    ("12_learner", (fresh(unseeded=True), capstone.forward), "the same seed gave two networks"),
    ("12_learner", (lambda seed: [0 * p.detach() for p in fresh()(seed)], capstone.forward), "leaves"),
    ("12_learner", (fresh(scale=1e-7), capstone.forward), "all logits are equal"),
    ("12_learner", (fresh(grad=False), capstone.forward), "leaves that require grad"),
    ("12_learner", (fresh(tuple_=True), capstone.forward), "a list of tensors"),
    ("12_learner", (fresh(), own_weights), "no gradient reaches it"),
    ("12_learner", (fresh(), without_last_bias), "some weights have no part"),
    ("12_learner", (fresh(), probabilities), "these are probabilities"),
    ("12_learner", (fresh_without_biases(), activated(lambda h: 2 * h)), "put a nonlinear function"),
    ("12_learner", (fresh_without_biases(first=0.0), activated(torch.relu)), "all images stay alike"),
    ("12_learner", (fresh_without_biases(head=0.0), activated(lambda h: h)), "the logits are linear"),
    ("12_learner", (fresh(), lambda w, x: capstone.forward(w, x).argmax(1)), "the shape"),
    ("12_loss", lambda z, y: F.cross_entropy(z, y, reduction="sum"), "the sum over the images"),
    ("12_loss", lambda z, y: F.cross_entropy(z, y, reduction="none"), "one loss per image"),
    ("12_loss", lambda z, y: F.cross_entropy(z, y) / 10, "not by that of all logits"),
    ("12_loss", lambda z, y: F.cross_entropy(z.softmax(1), y), "softmax was applied twice"),
    ("12_loss", lambda z, y: -z.gather(1, y[:, None]).mean(), "sum of exp is missing"),
    ("12_loss", lambda z, y: -F.cross_entropy(z, y), "the wrong sign"),
    ("12_loss", lambda z, y: F.cross_entropy(z, y) / math.log(2), "base 2"),
    ("12_loss", lambda z, y: F.cross_entropy(z.detach(), y), "cut off from the logits"),
    (
        "12_loss",
        lambda z, y: -(z.exp() / z.exp().sum(1, keepdim=True)).gather(1, y[:, None]).log().mean(),
        "overflows",
    ),
    ("12_step", step(graph=False), "create_graph=True"),
    ("12_step", step(velocity="average"), "without a factor 1 - m"),
    ("12_step", step(velocity="missing"), "the old velocity is missing"),
    ("12_step", step(velocity="plain"), "scaled by m"),
    ("12_step", step(velocity="scaled"), "belongs to the weights' line"),
    ("12_step", step(moves="old"), "not the old one"),
    ("12_step", step(moves="gradient"), "not the gradient alone"),
    ("12_step", step(sign=1), "down, not up"),
    ("12_step", step(rate=False), "the learning rate is missing"),
    ("12_step", step(in_place=True), "the caller's w or v has changed"),
    ("12_step", step(cut=("lr",)), "the new w cannot be differentiated by lr"),
    ("12_step", step(cut=("m",)), "the new w cannot be differentiated by m"),
    ("12_step", step(cut=("v",)), "the new w cannot be differentiated by v"),
    ("12_step", step(cut=("new v",)), "the new v cannot be differentiated by w"),
    ("12_step", step(last="w"), "return 2 things"),
    ("12_train", train(batch=lambda t: 0), "saw the first batch"),
    ("12_train", train(reset=True), "the velocity was forgotten"),
    ("12_train", train(momentum=lambda t: 0), "took the first momentum"),
    ("12_train", train(rate=lambda t: 0), "took the first learning rate"),
    ("12_train", train(order=lambda T: range(T - 1)), "the last step is missing"),
    ("12_train", train(order=lambda T: range(1, T)), "the first step is missing"),
    ("12_train", train(order=lambda T: reversed(range(T))), "went backwards"),
    ("12_train", train(between=lambda w: [p.detach().requires_grad_() for p in w]), "nothing may be cut"),
    ("12_train", train(plain=True), "their gradient by the learning rates"),
    ("12_meta_loss", meta_loss(trained=False), "before its training"),
    ("12_meta_loss", meta_loss(own=True), "the teacher's own images"),
    ("12_meta_loss", meta_loss(result=lambda v: v.item()), "plain number"),
    ("12_meta_loss", meta_loss(result=lambda v: v.detach()), "something cuts the road"),
    (
        "12_meta_loss",
        meta_loss(lesson_of=lambda lesson: (lesson[0], lesson[1], lesson[2].detach(), lesson[3])),
        "no gradient reaches the learning rates",
    ),
    (
        "12_meta_loss",
        meta_loss(lesson_of=lambda lesson: (lesson[0].detach(), *lesson[1:])),
        "no gradient reaches the images",
    ),
    ("12_gradient_error", gradient_error(sides=1), "below 1e-8"),
    ("12_gradient_error", gradient_error(h=1e-12), "a right gradient has the error"),
    ("12_gradient_error", gradient_error(h=1.0), "is h small"),
    ("12_gradient_error", gradient_error(draw=ones), "not all ones"),
    ("12_gradient_error", gradient_error(slope="numbers"), "that of autograd"),
    ("12_gradient_error", gradient_error(first=True), "the last part was not seen"),
    ("12_gradient_error", gradient_error(in_place=[1]), "put it back"),
    ("12_gradient_error", gradient_error(in_place=[1, -2, 1]), "adding and subtracting rounds"),
    ("12_gradient_error", gradient_error(sides_in=torch.no_grad), "no no_grad around it"),
    ("12_gradient_error", gradient_error(absolute="never"), "take the absolute value"),
    ("12_gradient_error", gradient_error(divide="second"), "divides by the other one's"),
    ("12_gradient_error", gradient_error(divide="none"), "divide by the size of the first slope"),
    ("12_gradient_error", gradient_error(absolute=False), "take the absolute value"),
    ("12_gradient_error", gradient_error(text=True), "return one number"),
    ("12_teacher", teacher(z="image"), "every step shows the same"),
    ("12_teacher", teacher(z="step"), "two images of one class are the same"),
    ("12_teacher", teacher(rates="plain"), "can become 0 or negative"),
    ("12_teacher", teacher(rates="cut"), "the learning rates do not depend"),
    ("12_teacher", teacher(momenta="plain"), "can leave the interval"),
    ("12_teacher", teacher(rates="itself"), "can become 0 or negative"),
    ("12_teacher", teacher(momenta="itself"), "can leave the interval"),
    ("12_teacher", teacher(momenta="clamp"), "can leave the interval"),
    ("12_teacher", teacher(begin=2e-9), "should begin near 0.1"),
    ("12_teacher", teacher(begin=403.0), "should begin near 0.1"),
    ("12_teacher", teacher(learned=False), "the vectors z are not learned"),
    ("12_teacher", teacher(sees_class=False), "does not see the class"),
    ("12_teacher", teacher(labels="sorted"), "i mod 10 for image i"),
    ("12_teacher", teacher(labels="one"), "every class equally often"),
    ("12_teacher", teacher(pixels=True), "numbers of its own alone"),
    ("12_teacher", teacher(seed="fixed"), "another seed gave the same teacher"),
    ("12_teacher", teacher(seed="ignored"), "the same seed gave two teachers"),
    ("12_teacher", teacher(flat=False), "the shape"),
    ("12_teacher", teacher(extra=True), "has no part in the lesson"),
    ("12_teacher", lambda T, B, seed: torch.zeros(T, B), "a torch.nn.Module"),
    ("12_meta_train", meta_train(each=False), "its own i"),
    ("12_meta_train", meta_train(anew=False), "made anew"),
    ("12_meta_train", meta_train(zero=False), "gradients of earlier steps"),
    ("12_meta_train", meta_train(move=False), "has not moved"),
    ("12_meta_train", meta_train(sign=-1), "the meta-loss rises"),
    ("12_meta_train", meta_train(plain=False), "plain numbers"),
    ("12_meta_train", meta_train(result="last"), "return a list"),
    ("12_meta_train", meta_train(lr=1e-5), "hardly moves"),
    ("12_meta_train", meta_train(count=-1), "once each"),
    ("12_meta_train", meta_train(after=True), "should be"),
    ("12_judge", judge(part="valid"), "the validation images"),
    ("12_judge", judge(part="train"), "the training images"),
    ("12_judge", judge(seeds=lambda s: [s[0]] * len(s)), "the same learner"),
    ("12_judge", judge(seeds=lambda s: range(len(s))), "is not k itself"),
    ("12_judge", judge(reduce=torch.mean), "a mean without a spread"),
    ("12_judge", judge(reduce=lambda a: 100 * a), "not percent"),
    ("12_judge", judge(reduce=lambda a: 1 - a), "fraction of mistakes"),
    ("12_judge", judge(twice=True), "asked for once"),
]
RIGHT: list[tuple[str, Any]] = [
    (f"12_{name}", tuple(functions)) for name, functions in capstone.EXERCISES.items()
]
RIGHT += [
    ("12_loss", F.cross_entropy),
    ("12_learner", (fresh_without_biases(), activated(torch.tanh))),
    ("12_learner", (fresh_without_biases(), activated(torch.sin))),
    ("12_learner", (fresh_without_biases(), activated(F.softsign))),
    ("12_learner", (fresh_without_biases(head=0.0), activated(torch.relu))),
    ("12_step", step()),
    ("12_step", step(pair=list)),
    ("12_train", train()),
    ("12_meta_loss", meta_loss()),
    ("12_gradient_error", gradient_error()),
    ("12_teacher", teacher()),
    ("12_teacher", teacher(momenta="steep", in_list=True)),
    ("12_teacher", teacher(generator=normalized)),
    ("12_meta_train", meta_train(lr=0.1)),
    ("12_judge", judge()),
]
