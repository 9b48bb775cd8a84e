"""The capstone's reference: one right answer to each of its ten exercises, in plain torch.

The test of the notebook writes these sources into its empty cells.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits


def make_data(seed):
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(digits.data, dtype=torch.float32)[order]
    y = torch.tensor(digits.target)[order]
    x = (x - x[:1000].mean()) / x[:1000].std()
    return {
        "train": (x[:1000], y[:1000]),
        "valid": (x[1000:1297], y[1000:1297]),
        "test": (x[1297:], y[1297:]),
    }


def fresh(seed):
    rng = torch.Generator().manual_seed(seed)
    w = [
        torch.randn(64, 64, generator=rng) / 8,
        torch.zeros(64),
        torch.randn(10, 64, generator=rng) / 8,
        torch.zeros(10),
    ]
    return [p.requires_grad_() for p in w]


def forward(w, x):
    return F.linear(torch.relu(F.linear(x, w[0], w[1])), w[2], w[3])


def loss(logits, y):
    return (logits.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]).mean()


def step(objective, w, v, lr, m):
    g = torch.autograd.grad(objective(w), w, create_graph=True)
    v = [m * old + new for old, new in zip(v, g, strict=True)]
    return [p - lr * move for p, move in zip(w, v, strict=True)], v


def train(batch_loss, w, lesson):
    x, y, lr, m = lesson
    v = [torch.zeros_like(p) for p in w]
    for t in range(len(x)):
        w, v = step(lambda w, t=t: batch_loss(w, x[t], y[t]), w, v, lr[t], m[t])
    return w


def meta_loss(batch_loss, w, lesson, exam):
    return batch_loss(train(batch_loss, w, lesson), *exam)


def gradient_error(f, theta, seed):
    h = 1e-5
    rng = torch.Generator().manual_seed(seed)
    u = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in theta]
    g = torch.autograd.grad(f(theta), theta)
    slope = sum((a * b).sum() for a, b in zip(g, u, strict=True))

    def moved(h):
        return f([(p + h * b).detach().requires_grad_() for p, b in zip(theta, u, strict=True)]).item()

    return abs(slope.item() - (moved(h) - moved(-h)) / (2 * h)) / (abs(slope.item()) + 1e-12)


class Teacher(torch.nn.Module):
    def __init__(self, T, B, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.z = torch.nn.Parameter(torch.randn(T, B, 32))
        self.generator = torch.nn.Sequential(
            torch.nn.Linear(42, 128), torch.nn.LeakyReLU(0.1), torch.nn.Linear(128, 64)
        )
        self.log_lr = torch.nn.Parameter(torch.full((T,), math.log(0.1)))
        self.raw_m = torch.nn.Parameter(torch.zeros(T))
        self.y = torch.arange(B).remainder(10).expand(T, B)

    def forward(self):
        x = self.generator(torch.cat([self.z, F.one_hot(self.y, 10)], -1))
        return x, self.y, self.log_lr.exp(), torch.sigmoid(self.raw_m)


def meta_train(teacher, objective, steps):
    adam = torch.optim.Adam(teacher.parameters(), lr=0.01)
    history = []
    for i in range(steps):
        adam.zero_grad()
        value = objective(teacher(), i)
        value.backward()
        torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        adam.step()
        history.append(value.item())
    return history


def judge(taught, data, seeds):
    x, y = data["test"]
    with torch.no_grad():
        return torch.stack([(taught(seed)(x).argmax(1) == y).float().mean() for seed in seeds])


EXERCISES = {
    "make_data": [make_data],
    "learner": [fresh, forward],
    "loss": [loss],
    "step": [step],
    "train": [train],
    "meta_loss": [meta_loss],
    "gradient_error": [gradient_error],
    "teacher": [Teacher],
    "meta_train": [meta_train],
    "judge": [judge],
}
"""The functions of each exercise, by the name of its check."""
