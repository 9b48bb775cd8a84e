"""Lesson 4: the gradient by the learning rates, the meta-loss, the outer loop, one rate for each layer."""

from __future__ import annotations

from typing import Any

import torch

import minigtn
from checks.common import Function, Hint, close, exercise, judge, tensor
from checks.predict import choice, prediction


@exercise
def check_4_log_lr_gradient(log_lr_gradient: Function) -> None:
    """``log_lr_gradient(loss, w0, batches, log_lr, momentum, real)``: d meta-loss / d log_lr (T,)."""
    loss, w0, batches, real = _flat_problem()
    T = len(batches)
    log_lr = torch.linspace(-2.0, -1.0, T, dtype=torch.float64)
    lr = log_lr.exp()
    momentum = 0.7

    def gradient(w: Any, batch: Any) -> Any:
        w = w.detach().requires_grad_()
        return w, torch.autograd.grad(loss(w, batch), w, create_graph=True)[0]

    def variant(
        rates: Any = lr,
        of: int = 1,
        hessian: Any = 0,
        late: bool = False,
        judged_on: Any = real,
        carry: bool = True,
    ) -> Any:
        states = [(w0, torch.zeros_like(w0))]
        for t in range(T):
            w, v = states[-1]
            v = momentum * v + gradient(w, batches[t])[1].detach()
            states.append((w - rates[t] * v, v))
        lam = gradient(states[-1][0], judged_on)[1].detach()
        nu = torch.zeros_like(w0)
        d_lr = torch.zeros_like(lr)
        for t in reversed(range(T)):
            d_lr[t] = -lam @ states[t + of][1]
            before = nu
            nu = nu - rates[t] * lam
            if hessian is not None:
                w, g = gradient(states[t + hessian][0], batches[t])
                lam = lam + torch.autograd.grad(g @ (before if late else nu), w)[0]
            nu = momentum * nu * carry
        return d_lr

    right = variant()
    usual = {
        "that is the gradient by lr: the factor d lr / d log lr, which is lr, is missing": right,
        "lr = exp(log lr), and d lr / d log lr is lr itself: multiply, do not divide": right / lr,
        "the derivative of exp is exp: the factor is lr, not log lr": right * log_lr,
        "the Hessian is missing: lam gets H nu on top; g depends on the weights": lr * variant(hessian=None),
        "H nu belongs to the weights before the step, states[t]": lr * variant(hessian=1),
        "H meets the nu of before its update: nu = nu - lr[t] * lam comes first": lr * variant(late=True),
        "the weights moved by the new velocity, that of states[t + 1]": lr * variant(of=0),
        "nu is not carried on to the step before, with the factor momentum": lr * variant(carry=False),
        "lam starts with the gradient on real, not on the last batch": lr * variant(judged_on=batches[-1]),
    }
    got = tensor("the gradient", log_lr_gradient(loss, w0, batches, log_lr, momentum, real), (T,))
    judge("the gradient by log lr", got.detach(), lr * right, usual)


@exercise
def check_4_meta_loss(meta_loss: Function) -> None:
    """``meta_loss(loss, params, batches, log_lr, momentum, real)``: the loss on real data, a scalar."""
    loss, params, batches, real = _torch_problem()
    log_lr = torch.linspace(-2.0, -1.0, 4, dtype=torch.float64, requires_grad=True)
    got = meta_loss(loss, params, batches, log_lr, 0.7, real)
    if not isinstance(got, torch.Tensor):
        raise Hint("return the tensor itself: float() or .item() cuts it off from the run that made it")

    def variant(lr: Any, batch: Any, momentum: float = 0.7) -> float:
        with torch.no_grad():
            return float(loss(minigtn.sgd(loss, params, batches, lr, momentum), batch))

    last = [part[-1] for part in batches]
    with torch.no_grad():
        untrained = float(loss(params, real))
    usual = {
        "lr is the exponential of log_lr: give sgd log_lr.exp()": variant(log_lr.detach().clone(), real),
        "that is the loss on the last training batch: a schedule must be judged on data it "
        "was not trained on, here `real`": variant(log_lr.exp(), last),
        "that is the loss of the untrained learner: sgd returns the trained params": untrained,
        "the momentum is missing: give it to sgd": variant(log_lr.exp(), real, 0.0),
    }
    judge("the meta-loss", got.detach(), variant(log_lr.exp(), real), usual)
    if not got.requires_grad or torch.autograd.grad(got, log_lr, allow_unused=True)[0] is None:
        raise Hint(
            "the number is right, but it is cut off from log_lr: no .detach(), no "
            "torch.no_grad(), no torch.tensor(log_lr)"
        )


@exercise
def check_4_learn(learn: Function) -> None:
    """``learn(log_lr, meta_loss_of, outer_steps)``: improves log_lr in place, returns the meta-losses."""
    asked: list[int] = []

    def start() -> list[torch.Tensor]:
        return [torch.tensor(x, requires_grad=True) for x in ([-2.0, -1.0], [0.5])]

    def meta_loss_of(log_lr: list[torch.Tensor], seed: int) -> torch.Tensor:
        return sum((u.exp() - 1).square().sum() for u in log_lr) * (1 + seed)

    def variant(
        zero: bool = True, step: bool = True, optimizer: Any = torch.optim.Adam
    ) -> list[torch.Tensor]:
        log_lr = start()
        moved = optimizer(log_lr, lr=0.04)
        for seed in range(6):
            if zero:
                moved.zero_grad()
            meta_loss_of(log_lr, seed).backward()
            if step:
                moved.step()
        return log_lr

    log_lr = start()

    def asking(seed: int) -> torch.Tensor:
        asked.append(seed)
        return meta_loss_of(log_lr, seed)

    history = learn(log_lr, asking, 6)
    if asked != list(range(6)):
        raise Hint(
            f"outer step i should ask for meta_loss_of(i), once, for i = 0 to 5; here it asked for {asked}"
        )
    right = variant()
    wrong = {
        "zero_grad is missing: the gradients of all outer steps so far are added": variant(zero=False),
        "nothing has moved: after backward comes optimizer.step()": variant(step=False),
        "that is plain gradient descent: take torch.optim.Adam": variant(optimizer=torch.optim.SGD),
    }
    for i, u in enumerate(log_lr):
        usual = {hint: answer[i].detach() for hint, answer in wrong.items()}
        judge(f"log_lr[{i}] after six outer steps", u.detach(), right[i].detach(), usual)
    if not isinstance(history, list) or not all(isinstance(value, float) for value in history):
        raise Hint("log_lr is right; return the list of the meta-losses as numbers, value.item()")
    again = start()
    optimizer = torch.optim.Adam(again, lr=0.04)
    losses = []
    for seed in range(6):
        optimizer.zero_grad()
        value = meta_loss_of(again, seed)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    judge("the list of meta-losses", history, losses)


@exercise
def check_4_train_per_layer(train_per_layer: Function) -> None:
    """``train_per_layer(loss, params, batches, lr, momentum)``, lr a dict of (T,): the trained params."""
    loss, params, batches, real = _torch_problem()
    lr = {name: torch.linspace(0.1, 0.4, 4, dtype=torch.float64) * k for k, name in enumerate(params, 1)}

    def variant(lr_of: Function, momentum: float = 0.7, old: bool = False) -> dict[str, Any]:
        w = {name: p.clone().requires_grad_() for name, p in params.items()}
        v = {name: torch.zeros_like(p) for name, p in params.items()}
        for t in range(4):
            g = torch.autograd.grad(loss(w, [part[t] for part in batches]), list(w.values()))
            new = {name: momentum * v[name] + g_name for (name, g_name) in zip(w, g, strict=True)}
            w = {
                name: (w[name] - lr_of(name, t) * (v if old else new)[name]).detach().requires_grad_()
                for name in w
            }
            v = new
        return {name: p.detach() for name, p in w.items()}

    got = train_per_layer(loss, params, batches, lr, 0.7)
    if not isinstance(got, dict) or set(got) != set(params):
        raise Hint(f"return the trained params as a dict with the names {', '.join(params)}")
    first = next(iter(lr))
    usual = {
        "all layers moved with one layer's learning rate: use lr[name][t]": variant(
            lambda name, t: lr[first][t]
        ),
        "every step used the first learning rate: use lr[name][t]": variant(lambda name, t: lr[name][0]),
        "the velocity is forgotten between the steps: v <- momentum * v + g": variant(
            lambda name, t: lr[name][t], momentum=0.0
        ),
        "the weights move by the old velocity: update v first": variant(
            lambda name, t: lr[name][t], old=True
        ),
    }
    right = variant(lambda name, t: lr[name][t])
    for name in params:
        judge(
            f"params[{name!r}]",
            got[name].detach(),
            right[name],
            {hint: wrong[name] for hint, wrong in usual.items()},
        )

    common = torch.linspace(0.1, 0.4, 4, dtype=torch.float64, requires_grad=True)
    value = loss(train_per_layer(loss, params, batches, dict.fromkeys(params, common), 0.7), real)
    d_common = torch.autograd.grad(value, common, allow_unused=True)[0] if value.requires_grad else None
    if d_common is None:
        raise Hint(
            "the weights are right, but cut off from lr: no .detach() and no torch.no_grad() on the way"
        )
    (d_right,) = torch.autograd.grad(loss(minigtn.sgd(loss, params, batches, common, 0.7), real), common)
    if not close(d_common, d_right):
        raise Hint(
            "the weights are right and their gradient by lr is not: torch.autograd.grad needs "
            "create_graph=True, or g counts as a constant"
        )


def _flat_problem() -> tuple[Any, ...]:
    rng = torch.Generator().manual_seed(6)
    w0, *data = [torch.randn(size, generator=rng, dtype=torch.float64) for size in (3, (5, 6, 3), (5, 6))]

    def loss(w: Any, batch: Any) -> Any:
        x, y = batch
        return (torch.tanh(x @ w) - y).square().mean() + 0.1 * w.pow(4).sum()

    batches = list(zip(*data, strict=True))
    return loss, w0, batches[:4], batches[4]


def _torch_problem() -> tuple[Any, ...]:
    rng = torch.Generator().manual_seed(5)
    params = {
        "hidden": torch.randn(3, 4, generator=rng, dtype=torch.float64),
        "head": torch.randn(4, 1, generator=rng, dtype=torch.float64),
    }
    x, y = (
        torch.randn(5, 6, 3, generator=rng, dtype=torch.float64),
        torch.randn(5, 6, 1, generator=rng, dtype=torch.float64),
    )

    def loss(params: Any, batch: Any) -> Any:
        x, y = batch
        return (torch.tanh(x @ params["hidden"]) @ params["head"] - y).square().mean()

    return loss, params, (x[:4], y[:4]), (x[4], y[4])


@prediction
def predict_4_wish(guess: Any, answer: str) -> str:
    """Which learning rates of a constant schedule the gradient wants larger."""
    return choice(
        guess,
        answer,
        {
            "a": "Most of them. But no step comes after the last ones to repair what they overshoot.",
            "b": "Far away, go faster; at the end, settle. Nobody told the gradient of learning-rate decay.",
            "c": "It is the other way round: while there is far to go, larger steps help.",
            "d": "There would be no order if 0.1 were already good for every step. It is too small for most.",
        },
    )


@prediction
def predict_4_best(guess: Any, answer: str) -> str:
    """Which schedule has the lowest loss on test data."""
    return choice(
        guess,
        answer,
        {
            "a": "A constant large enough for the beginning is too large for the end: see its spread.",
            "b": "It comes close, within about a standard deviation: decay is most of what there is to gain.",
            "c": "But look at the spreads: the best line is about one standard deviation away.",
            "d": "More numbers are not more gain: compare the two last rows, and their spreads.",
        },
    )
