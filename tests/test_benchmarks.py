"""What benchmarks/meta_gradient.py decides by: its comparison notices a wrong gradient, its rows say what was
measured."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import any_network
import curricula_together
import jax_peer
import measuring
import never_ruined
from measuring import TOLERANCE, agreement, count_flops, difference
from methods import LearnerLoss, methods
from peers import PLAIN, plain
from problem import SIZES, Problem
from rows import summary, table, verdict

from minigtn.runs.files import read_json

TINY = dataclasses.replace(SIZES["tiny"], threads=1)
OTHERS = ("higher", "torchopt", "betty", "torch checkpoint", "torch checkpoint, reentrant", jax_peer.JAX)


def varied(config=TINY, dtype=torch.float64):
    problem = Problem(config, dtype)
    problem.vary()
    return problem


def test_the_comparison_notices_a_gradient_that_is_scaled_or_missing():
    expected = varied().gradient(plain)
    assert difference(expected, expected) == 0
    for name in expected:
        scaled = expected | {name: expected[name] * (1 + 10 * TOLERANCE)}
        assert difference(scaled, expected) > TOLERANCE, name
        assert difference({key: g for key, g in expected.items() if key != name}, expected) == math.inf


def test_a_peer_with_another_gradient_is_refused_and_minigtn_with_one_stops_everything(monkeypatch):
    def doubled(problem):
        plain(problem)
        problem.teacher.lr_raw.grad *= 2

    right = methods(TINY)
    monkeypatch.setattr(measuring, "methods", lambda config: {PLAIN: plain, "higher": doubled})
    found = agreement(TINY, [jax_peer.JAX])
    assert found["higher"].startswith("refused: its gradient differs by 1.0e+00")
    monkeypatch.setattr(measuring, "methods", lambda config: {PLAIN: plain, "minigtn Unrolled": doubled})
    with pytest.raises(SystemExit, match="minigtn Unrolled refused"):
        agreement(TINY, [jax_peer.JAX])
    monkeypatch.setattr(measuring, "methods", lambda config: right)
    found = agreement(TINY, OTHERS)
    assert found["minigtn Reversible"] <= TOLERANCE
    assert found["higher"] == "left out"


def test_a_missing_jax_is_said_and_not_fatal(monkeypatch):
    monkeypatch.setattr(measuring, "installed", lambda: False)
    monkeypatch.setattr(measuring, "methods", lambda config: {PLAIN: plain})
    assert agreement(TINY, [])[jax_peer.JAX] == "not installed (no module jax)"


@pytest.mark.parametrize("pixels", [False, True])
def test_weights_return_from_jaxs_layout(pixels):
    problem = Problem(dataclasses.replace(TINY, pixels=pixels, image=(3, 12, 16)), torch.float64)
    for name, p in problem.teacher.named_parameters():
        key = name.removeprefix("generator.")
        p = torch.arange(p.numel(), dtype=p.dtype).view(p.shape)
        there = jax_peer._to_jax(key, p, problem).contiguous().numpy()
        assert jax_peer._to_torch(key, there, problem).equal(p), name


def test_jax_gives_the_gradient_of_plain_unrolling():
    """The convolution that is the CPU's choice is compared in every run of the benchmark."""
    pytest.importorskip("jax")
    problem = varied(dataclasses.replace(TINY, steps=2))
    with jax_peer.JaxPeer(problem, "native") as peer:
        found = peer.gradient()
        assert peer.seconds() > 0
    assert difference(found, problem.gradient(plain)) < TOLERANCE
    assert peer.first["peak_bytes"] > 0


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('{\"loss\": NaN}', flush=True)", "its loss is nan"),
        ("raise MemoryError('too large')", "MemoryError: too large"),
    ],
)
def test_a_process_that_fails_or_has_no_finite_loss_is_refused(monkeypatch, tmp_path, program, words):
    path = tmp_path / "program.py"
    path.write_text(program)
    monkeypatch.setattr(jax_peer, "PROGRAM", path)
    with pytest.raises(RuntimeError, match=words), jax_peer.JaxPeer(Problem(TINY), "native"):
        pass


def test_equal_learners_have_equal_losses_so_that_what_was_captured_is_used_again():
    first = LearnerLoss(Problem(TINY).learner)
    assert first == LearnerLoss(Problem(TINY).learner)
    assert hash(first) == hash(LearnerLoss(Problem(TINY).learner))
    assert first != LearnerLoss(first.learner, torch.bfloat16)


def test_rows_leave_the_warm_up_out_and_say_what_part_of_the_floor_was_reached():
    flops = count_flops(TINY)
    assert flops > 0
    base = [100.0, 4.0, 4.0, 4.0]
    rows = [
        summary(PLAIN, base, base, 2**20, flops, machine=float(flops)),
        summary("minigtn Checkpointed(1)", [50.0, 2.0, 1.0, 3.0], base, 2**19, flops, machine=float(flops)),
    ]
    assert rows[0]["n"] == 3
    assert rows[0]["seconds"] == 4
    assert rows[0]["fraction_of_floor"] == 0.25  # the floor is one second here
    assert rows[1]["relative_to_plain_min_max"] == [0.25, 0.75]
    assert verdict(rows)["checkpointed_time"] == 0.5
    assert verdict(rows)["checkpointed_memory"] == 0.5
    assert "50.0%" in table(rows)


# ---- benchmarks/any_network.py ----


def test_any_network_judges_each_arm_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(any_network, "RATES", {"sgd": (0.1,), "adam": (1e-6, 0.01)})
    words = ["--curricula", "digits-10", "--size", "tiny", "--networks", "relu-mlp", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["any_network.py", *words])
    any_network.main()
    written = (tmp_path / "any_network.json").read_bytes()
    row = read_json(tmp_path / "any_network.json")["rows"]["relu-mlp"]
    auto = row["taught"]["digits-10"]["auto"]
    assert len(auto["each"]) == 2
    assert auto["mean"] == pytest.approx(sum(auto["each"]) / 2)
    assert auto["mean"] > 0.4
    assert auto["chosen"][0] != "learned sgd"
    assert row["taught"]["digits-10"]["learned"]["chosen"] == 2 * ["learned sgd"]
    assert list(row["real"]) == ["10 x 32", "20 x 32"]
    assert row["real"]["20 x 32"]["lr"] in (0.01, 0.1)  # not the rate that teaches nothing
    assert "| relu-mlp | " in capsys.readouterr().out
    any_network.main()
    assert (tmp_path / "any_network.json").read_bytes() == written
    monkeypatch.setattr(sys, "argv", ["any_network.py", *words, "--size", "full"])
    with pytest.raises(SystemExit, match="was made with other settings or curricula"):
        any_network.main()


# ---- benchmarks/never_ruined.py ----


def test_never_ruined_counts_each_outcome_and_goes_on(tmp_path, monkeypatch, capsys):
    words = ["--curricula", "digits-10", "--networks", "2", "--starts", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["never_ruined.py", *words])
    never_ruined.main()
    written = (tmp_path / "never_ruined.json").read_bytes()
    found = read_json(tmp_path / "never_ruined.json")["curricula"]["digits-10"]
    assert [sum(found[way].values()) for way in ("auto", "learned")] == [2, 2]
    assert found["ruined"] == []
    never_ruined.main()
    assert (tmp_path / "never_ruined.json").read_bytes() == written
    monkeypatch.setattr(sys, "argv", ["never_ruined.py", *words, "--starts", "2"])
    with pytest.raises(SystemExit, match="other settings"):
        never_ruined.main()


@pytest.mark.parametrize(
    ("spoil", "outcome"),
    [
        (lambda p: p.data.fill_(math.nan), "ruined"),
        (lambda p: p.data.add_(0), "taught, loss not lower"),
    ],
)
def test_never_ruined_notices_a_ruined_network(monkeypatch, spoil, outcome):
    module = torch.nn.Linear(3, 2)
    taught = SimpleNamespace(losses=(1.0, 1.0))
    monkeypatch.setattr(never_ruined, "teach", lambda *given: (spoil(module.weight), taught)[1])
    assert never_ruined.outcome(module, None, "auto") == outcome


@pytest.mark.parametrize(("change", "outcome"), [(0.0, "refused"), (1e-6, "ruined")])
def test_never_ruined_wants_a_refused_network_as_it_was(monkeypatch, change, outcome):
    module = torch.nn.Linear(3, 2)

    def refuse(*given):
        module.bias.data += change
        raise FloatingPointError

    monkeypatch.setattr(never_ruined, "teach", refuse)
    assert never_ruined.outcome(module, None, "auto") == outcome


def test_readings_that_err_independently_are_better_together(tmp_path, monkeypatch, capsys):
    """Two curricula, two repeats of each, read truth and noise: the mean of all is better than that of one,
    and the vote with it than the vote without."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    for folder in ("a", "b"):
        lines = []
        for arch, t in enumerate(truth):
            for repeat in (0, 1):
                noisy = t + 1.5 * rng.normal(size=4)
                names = ("gtn-4-loss", "flops", "synflow", "naswot")
                scores = dict(zip(names, noisy, strict=True)) | {"gtn-2-loss": 0.0, "real-9-loss": t}
                about = {"arch": str(arch), "repeat": repeat, "truth": t}
                lines.append({**about, "scores": scores, "seconds": dict.fromkeys(scores, 1.0)})
        (tmp_path / folder).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / folder / "scores.jsonl").write_text(text)
    out = tmp_path / "out.json"
    folders = [str(tmp_path / folder) for folder in "ab"]
    flags = ["--beside", folders[0], "--out", str(out), "--bootstrap", "50"]
    monkeypatch.setattr("sys.argv", ["curricula_together.py", *folders, *flags])
    curricula_together.main()
    found = read_json(out)
    one, two, across, together = (
        found[f"taught, {name}"]
        for name in ("one", "the repeats of a curriculum", "the curricula of a repeat", "all")
    )
    assert [len(about["each"]) for about in (one, two, across, together)] == [4, 2, 2, 1]
    assert together["mean"]["value"] > max(each["value"] for each in one["each"])
    assert together["mean"]["value"] > two["mean"]["value"] > one["mean"]["value"]
    assert together["mean"]["minus"]["real-9-loss"]["high"] < 0  # the truth itself
    assert found["vote-taught, all"]["mean"]["minus"]["vote"]["low"] > 0
    assert found["alone"]["real-9-loss"]["value"] == 1.0
    assert "taught, all" in capsys.readouterr().out
