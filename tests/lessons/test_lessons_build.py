"""The lessons run, their solutions pass the checks, and the checks recognise the usual mistakes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import autograd.numpy as anp
import nbformat
import numpy as np
import pytest
import torch
from autograd import grad, make_vjp
from nbclient import NotebookClient

import minigtn

LESSONS = Path(__file__).parents[2] / "lessons"
sys.path.insert(0, str(LESSONS))  # the lessons' own folder is where they run

import checks  # noqa: E402
import recap  # noqa: E402

NOTEBOOKS = sorted(LESSONS.glob("[0-9]*.ipynb"))
EMBARRASSING = re.compile(r"NotImplementedError|Traceback|Warning|site-packages|/home/|/root/|/tmp/|[A-Z]:\\\\")


def outputs_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") or str(output.get("data", {}).get("text/plain", "")) for output in cell.outputs)


def look_at_outputs(notebook: nbformat.NotebookNode) -> None:
    """Nothing failed, nothing is embarrassing, each stub says so, and each solution passes its check."""
    solutions = 0
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type != "code":
            continue
        text, tags = outputs_of(cell), cell.metadata.get("tags", [])
        assert cell.execution_count, f"{cell.id} was not executed"
        assert not [o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"], f"{cell.id}: {text}"
        assert not EMBARRASSING.search(text), f"{cell.id}: {text}"
        if "exercise" in tags:
            assert before is not None
            assert before.cell_type == "markdown"
            assert text.startswith("Not done yet"), f"{cell.id}: {text}"
        if "solution" in tags:
            assert text.strip() == "Correct.", f"{cell.id}: {text}"
            solutions += 1
    exercises = sum("exercise" in cell.metadata.get("tags", []) for cell in notebook.cells)
    assert exercises == solutions >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson_is_kept_with_its_outputs(path: Path) -> None:
    assert path.stat().st_size <= 500_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    look_at_outputs(notebook)
    assert sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lesson_runs_from_the_top(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGTN_LESSON_SHORT", "1")
    monkeypatch.delenv("MINIGTN_DATA", raising=False)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(LESSONS)}}).execute()
    look_at_outputs(notebook)


# ------------------------------------------------------------------------------- the checks of lessons 1 to 4 see the usual mistakes


def forward_difference(f, x, h=1e-5):
    return np.array([(f(x + h * e) - f(x)) / h for e in np.eye(len(x))])


def forgotten_two(f, x, h=1e-5):
    return np.array([(f(x + h * e) - f(x - h * e)) / h for e in np.eye(len(x))])


def writes_into_x(f, x, h=1e-5):
    slopes = []
    for i in range(len(x)):
        x[i] += h
        above = f(x)
        x[i] -= 2 * h
        slopes.append((above - f(x)) / (2 * h))
    return np.array(slopes)


def step_back(d_lr_of="new v", hessian=True, update_nu=True, sign=-1, factor_m=True, mixed=True):
    """Lesson 1's function with one thing wrong."""

    def answer(loss, lam, nu, w, v, batch, lr, m):
        pull_back, g = make_vjp(grad(loss), argnum=(0, 1))(w, batch)
        new_v = m * v + g
        d_lr = sign * lam @ {"new v": new_v, "old v": v, "g": g}[d_lr_of]
        later = nu - lr * lam if update_nu else nu
        h_nu, d_batch = pull_back(later)
        if not mixed:
            d_batch = grad(loss, 1)(w, batch)
        return lam + hessian * h_nu, (m if factor_m else 1) * later, d_lr, later @ v, d_batch

    return answer


def train(lr_of=lambda lr, t: lr[t], batch_of=lambda batches, t: batches[t], old=False, plain=False):
    def answer(loss, w0, batches, lr, m):
        w, v = w0, np.zeros(len(w0))
        for t in range(len(batches)):
            new = m * v + grad(loss)(w, batch_of(batches, t))
            w, v = w - (float(lr_of(lr, t)) if plain else lr_of(lr, t)) * (v if old else new), new
        return w

    return answer


def walk_back(order=reversed, shift=0, carry=True, turned=False):
    def answer(loss, states, batches, lr, m, lam):
        T = len(batches)
        d_lr, d_m, nu = np.zeros(T), np.zeros(T), np.zeros(len(lam))
        for t in order(range(T)):
            w, v = states[t + shift]
            lam, new, d_lr[t], d_m[t], _ = recap.step_back(loss, lam, nu, w, v, batches[t], lr[t], m)
            nu = new if carry else nu
        return (lam, d_lr[::-1], d_m[::-1]) if turned else (lam, d_lr, d_m)

    return answer


def power_iteration(normalize=True, result="curvature"):
    def answer(hessian_times, u, rounds):
        for _ in range(rounds):
            u = u / np.linalg.norm(u) if normalize else u
            h_u = hessian_times(u)
            curvature, u = anp.dot(u, h_u), h_u
        return {"curvature": curvature, "direction": u, "rate": 2 / curvature}[result]

    return answer


def undo_step(late=False, order="subtract first", sign=1):
    def answer(loss, new_w, new_v, batch, lr, m):
        w = new_w + sign * lr * new_v
        g = grad(loss)(new_w if late else w, batch)
        return w, {"subtract first": (new_v - g) / m, "divide first": new_v / m - g, "multiply": m * (new_v - g)}[order]

    return answer


def squeeze_by(push=True, pop=True, truncate=False):
    def answer(v, b, n, d):
        h, r = divmod(v, d)
        if truncate:
            h, r = int(v / d), v - int(v / d) * d
        if not pop:
            return v * n // d, b * d + r
        b, s = divmod(b * d + r, n)
        return h * n + (s if push else 0), b

    return answer


def meta_loss(exp=True, on="real", cut=False, momentum_given=True):
    def answer(loss, params, batches, log_lr, momentum, real):
        if cut:
            log_lr = log_lr.detach()
        trained = minigtn.sgd(loss, params, batches, log_lr.exp() if exp else log_lr.abs(), momentum if momentum_given else 0.0)
        return loss(trained, real if on == "real" else [part[-1] for part in batches])

    return answer


def train_per_layer(create_graph=True, name_of=lambda name: name, step_of=lambda t: t):
    def answer(loss, params, batches, lr, momentum):
        w = {name: p.clone().requires_grad_() for name, p in params.items()}
        v = {name: torch.zeros_like(p) for name, p in params.items()}
        for t in range(len(batches[0])):
            g = torch.autograd.grad(loss(w, [part[t] for part in batches]), list(w.values()), create_graph=create_graph)
            v = {name: momentum * v[name] + g_name for name, g_name in zip(w, g, strict=True)}
            w = {name: w[name] - lr[name_of(name)][step_of(t)] * v[name] for name in w}
        return w

    return answer


WRONG: list[tuple[str, Callable[..., Any], str]] = [
    ("1_central_difference", forward_difference, "looks ahead only"),
    ("1_central_difference", forgotten_two, "2 * h apart"),
    ("1_central_difference", writes_into_x, "the caller's x has changed"),
    ("1_central_difference", lambda f, x, h=1e-5: f(x), "shape"),
    ("1_hessian_times", lambda loss, w, batch, nu: grad(loss)(w, batch), "that is the gradient itself"),
    ("1_hessian_times", lambda loss, w, batch, nu: grad(lambda w: anp.sum(grad(loss)(w, batch)))(w), "nu is missing"),
    ("1_hessian_times", lambda loss, w, batch, nu: grad(loss)(w, batch) * nu, "sum it to one number"),
    ("1_step_back", step_back(d_lr_of="old v"), "the weights move by the new velocity"),
    ("1_step_back", step_back(d_lr_of="g"), "not by the gradient alone"),
    ("1_step_back", step_back(sign=1), "wrong sign"),
    ("1_step_back", step_back(hessian=False), "the term H nu is missing"),
    ("1_step_back", step_back(update_nu=False), "update nu first"),
    ("1_step_back", step_back(factor_m=False), "the factor m is missing"),
    ("1_step_back", step_back(mixed=False), "mixed term"),
    ("1_step_back", lambda *_: (1.0, 2.0), "return 5 things"),
    ("2_train", train(lr_of=lambda lr, t: lr[0]), "first learning rate"),
    ("2_train", train(batch_of=lambda batches, t: batches[0]), "first batch"),
    ("2_train", train(old=True), "old velocity"),
    ("2_train", train(plain=True), "autograd cannot look through"),
    ("2_walk_back", walk_back(order=iter), "from the last step to the first"),
    ("2_walk_back", walk_back(shift=1), "starts from states[t]"),
    ("2_walk_back", walk_back(carry=False), "nu is not carried on"),
    ("2_walk_back", walk_back(turned=True), "order of the walk"),
    ("2_largest_curvature", power_iteration(normalize=False), "overflow"),
    ("2_largest_curvature", power_iteration(result="direction"), "that is the direction u"),
    ("2_largest_curvature", power_iteration(result="rate"), "return the curvature h"),
    ("3_undo_step", undo_step(late=True), "the gradient must be taken at the old weights"),
    ("3_undo_step", undo_step(order="divide first"), "subtract g before dividing"),
    ("3_undo_step", undo_step(order="multiply"), "divide by m"),
    ("3_undo_step", undo_step(sign=-1), "the weights went the wrong way"),
    ("3_squeeze", squeeze_by(push=False), "missing in v"),
    ("3_squeeze", squeeze_by(pop=False), "only grows"),
    ("3_squeeze", squeeze_by(truncate=True), "negative v"),
    ("3_squeeze", lambda v, b, n, d: (v * n / d, b), "stay with integers"),
    ("3_bits_per_weight", lambda m: -np.sum(np.log(m)), "base 2"),
    ("3_bits_per_weight", lambda m: -np.mean(np.log2(m)), "every step costs"),
    ("3_bits_per_weight", lambda m: -np.sum(np.log2(m)), "momentum 0"),
    ("3_bits_per_weight", lambda m: np.sum(np.log2(m)), "wrong sign"),
    ("4_through_the_logarithm", lambda lr, d_lr: d_lr / lr, "multiply, do not divide"),
    ("4_through_the_logarithm", lambda lr, d_lr: d_lr, "one factor is missing"),
    ("4_meta_loss", meta_loss(on="train"), "last training batch"),
    ("4_meta_loss", meta_loss(exp=False), "the meta-loss should be"),
    ("4_meta_loss", meta_loss(cut=True), "cut off from log_lr"),
    ("4_meta_loss", meta_loss(momentum_given=False), "momentum is missing"),
    ("4_meta_loss", lambda *args: meta_loss()(*args).item(), "the tensor itself"),
    ("4_train_per_layer", train_per_layer(create_graph=False), "create_graph=True"),
    ("4_train_per_layer", train_per_layer(name_of=lambda name: "hidden"), "one layer's learning rate"),
    ("4_train_per_layer", train_per_layer(step_of=lambda t: 0), "first learning rate"),
]


@pytest.mark.parametrize(("name", "wrong", "hint"), WRONG, ids=[f"{name}-{hint}" for name, _, hint in WRONG])
def test_check_names_the_mistake(name: str, wrong: Callable[..., Any], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(checks, f"check_{name}")(wrong)
    said = capsys.readouterr().out
    assert said.startswith("Not yet right: ")
    assert hint in said


RIGHT: list[tuple[str, Callable[..., Any]]] = [
    ("1_step_back", recap.step_back),
    ("1_step_back", step_back()),
    ("2_train", train()),
    ("2_walk_back", walk_back()),
    ("2_largest_curvature", power_iteration()),
    ("3_undo_step", undo_step()),
    ("3_squeeze", squeeze_by()),
    ("4_meta_loss", meta_loss()),
    ("4_train_per_layer", train_per_layer()),
]


@pytest.mark.parametrize(("name", "right"), RIGHT, ids=[name for name, _ in RIGHT])
def test_check_accepts_the_same_without_the_mistake(name: str, right: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    getattr(checks, f"check_{name}")(right)
    assert capsys.readouterr().out == "Correct.\n"


def test_every_check_of_lessons_1_to_4_is_tried_with_wrong_answers(capsys: pytest.CaptureFixture[str]) -> None:
    names = {name.removeprefix("check_") for name in vars(checks) if re.match(r"check_[1-4]_", name)}
    assert names == {name for name, _, _ in WRONG}
    for name in names:
        getattr(checks, f"check_{name}")(lambda *_: ...)
        assert capsys.readouterr().out.startswith("Not done yet")


def test_close_is_not_fooled() -> None:
    assert checks.close([1.0, 2.0], [1.0, 2.0 + 1e-9])
    assert not checks.close([1.0, 2.0], [1.0, 2.001])
    assert not checks.close([1.0, np.nan], [1.0, np.nan])
    assert not checks.close(np.inf, 65.0)
