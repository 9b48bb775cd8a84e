"""The tests of the tests: a gradient that is wrong by a thousandth, or in one entry, must not pass any
checker."""

import pytest
import torch

from minigtn import Reversible
from minigtn.studies import check
from minigtn.studies.check import (
    ADJOINTS,
    DIFFERENCE_TOLERANCE,
    REVERSIBLE_TOLERANCE,
    difference_from_differences,
    float32_tolerance,
)
from problems import DISTORTIONS, PROBLEMS, Broken, problem, unrolled

INPUTS = ("weights", "images", "labels", "lr", "momentum", "real images")


@pytest.mark.parametrize("distort", DISTORTIONS)
@pytest.mark.parametrize("what", INPUTS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_entry_by_entry(name, what, distort):
    d = unrolled(name, every=3)[what]
    assert check.relative_difference(d, d) == 0
    assert check.relative_difference(distort(d), d) > max(REVERSIBLE_TOLERANCE, float32_tolerance(7))


@pytest.mark.parametrize("distort", DISTORTIONS)
@pytest.mark.parametrize("what", INPUTS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_central_differences(name, what, distort):
    d = unrolled(name, every=3)[what]
    assert difference_from_differences(problem(name, every=3), what, distort(d)) > 10 * DIFFERENCE_TOLERANCE


@pytest.mark.parametrize(
    "found",
    [torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("inf")]), torch.ones(3), torch.zeros(2)],
)
def test_nonsense_is_different(found):
    assert check.relative_difference(found, torch.tensor([1.0, 2.0])) >= 1


def test_a_zero_that_should_be_zero():
    assert check.relative_difference(torch.zeros(2), torch.zeros(2)) == 0
    assert check.relative_difference(torch.ones(2), torch.zeros(2)) == float("inf")


def test_minigtn_check_passes(capsys):
    assert check.run("cpu")
    printed = capsys.readouterr().out
    assert "all checks passed on cpu" in printed
    assert "FAIL" not in printed
    for word in (*ADJOINTS, *INPUTS, "dense", "conv", "adam", "approximate", "exact", "1,000 steps"):
        assert word in printed


@pytest.mark.parametrize("distort", DISTORTIONS)
@pytest.mark.parametrize("method", ADJOINTS)
def test_minigtn_check_fails_on_a_wrong_gradient(method, distort, capsys):
    """One adjoint at a time; Unrolled, which the others are held against, is caught by the central
    differences."""
    adjoints = {name: ADJOINTS[name] for name in ("Unrolled", method)} | {
        method: Broken(ADJOINTS[method], distort)
    }
    assert not check.run("cpu", adjoints, steps=10)
    failures = [line for line in capsys.readouterr().out.splitlines() if "FAIL" in line]
    assert any(line.startswith(method) and " weights " in line for line in failures)


def test_minigtn_check_fails_where_reversible_does_not_return(monkeypatch, capsys):
    monkeypatch.setattr("minigtn.inner.fixed_point.FixedPointState.is_at", lambda self, w0: False)
    assert not check.run("cpu", {"Unrolled": ADJOINTS["Unrolled"], "Reversible": Reversible()}, steps=10)
    assert "did not return to the initial weights" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_minigtn_check_without_the_device_it_is_asked_for(capsys):
    assert not check.run("cuda")
    assert "finds no CUDA device" in capsys.readouterr().out


@pytest.mark.gpu
def test_minigtn_check_passes_on_cuda():
    assert check.run("cuda")
