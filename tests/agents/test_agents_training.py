"""A run that teaches agents: resume to the same bits, the folder, the page, the commands."""

from __future__ import annotations

import dataclasses
import math
import signal
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch

import minigtn
from minigtn.agents import commands, judging, report, runs
from minigtn.agents import config as purpose
from minigtn.agents.animation import animate
from minigtn.agents.config import AgentConfig, JudgeConfig, OuterConfig
from minigtn.agents.environments import ENVIRONMENTS, make
from minigtn.agents.policies import PolicyConfig
from minigtn.agents.teacher import StatesConfig, StateTeacher
from minigtn.agents.training import AgentTraining, AgentTrainingDiverged
from minigtn.cli import main
from minigtn.pages.figures import PALETTES
from minigtn.runs.files import read_json, read_metrics, write_json
from minigtn.runs.seeds import seed_for
from minigtn.runs.settings import to_dict

pytest.importorskip("gymnasium", reason="comes with minigtn[rl]")

TINY = AgentConfig(
    policy=PolicyConfig(hidden=(6,)),
    teacher=StatesConfig(inner_steps=3, batch_size=4),
    outer=OuterConfig(
        outer_steps=4,
        tries=2,
        policies=2,
        episodes=2,
        valid_every=2,
        valid_policies=2,
        valid_episodes=2,
        checkpoint_every=2,
        averaging=0.9,
    ),
    judge=JudgeConfig(policies=2, episodes=2),
)
FLAGS = [
    *("--policy.hidden", "6", "--teacher.inner-steps", "3", "--teacher.batch-size", "4"),
    *("--outer.outer-steps", "4", "--outer.tries", "2", "--outer.policies", "2", "--outer.episodes", "2"),
    *("--outer.valid-every", "2", "--outer.valid-policies", "2", "--outer.valid-episodes", "2"),
    *("--outer.averaging", "0.9", "--outer.gamma", "0.99", "--outer.sharpness", "1", "--teacher.spread", "1"),
    *("--outer.checkpoint-every", "2", "--judge.policies", "2", "--judge.episodes", "2"),
]


def state(training: AgentTraining) -> list[torch.Tensor]:
    kept = [part[name] for part in (training.best, training.average) for name in sorted(part)]
    parts = [*training.teacher.state_dict().values(), *training.critic.state_dict().values(), *kept]
    moments = [s["exp_avg"] for adam in (training.adam, training.critic_adam) for s in adam.state.values()]
    return [*parts, *moments]


def test_a_resumed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = AgentTraining(TINY)
    start = [p.clone() for p in whole.teacher.parameters()]
    whole.run(tmp_path / "a")
    first = AgentTraining(TINY)
    first.outer_step()
    first.outer_step()
    first.validate()
    first.save_checkpoint(tmp_path / "b")
    second = AgentTraining(TINY)
    second.load_checkpoint(tmp_path / "b")
    second.run(tmp_path / "b")
    assert all(a.equal(b) for a, b in zip(state(whole), state(second), strict=True))
    assert whole.progress.best_return == second.progress.best_return
    assert all((a - b).abs().max() > 0 for a, b in zip(start, whole.teacher.parameters(), strict=True))
    records = read_metrics(tmp_path / "a" / "metrics.jsonl")
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    assert records[-1]["env_steps"] == whole.progress.env_steps > records[0]["env_steps"]


def test_another_seed_is_another_run() -> None:
    one, other = (AgentTraining(dataclasses.replace(TINY, seed=seed)) for seed in (0, 1))
    assert one.outer_step()["returns"] != other.outer_step()["returns"]


def test_the_best_of_several_untrained_teachers_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    training = AgentTraining(dataclasses.replace(TINY, outer=dataclasses.replace(TINY.outer, tries=5)))
    played = []
    monkeypatch.setattr(
        training,
        "episodes_of",
        lambda kept: played.append(AgentTraining.episodes_of(training, kept)) or played[-1],
    )
    training.begin()
    means = played[0].returns().view(5, -1).mean(1)
    assert len(set(means.tolist())) > 1
    seeds = [
        StateTeacher(TINY.teacher, training.env, seed_for(TINY.seed, purpose.TEACHER, i)) for i in range(5)
    ]
    assert training.teacher.parts.pixels.equal(seeds[int(means.argmax())].parts.pixels)
    assert training.progress.env_steps == played[0].steps()


def test_the_kept_teacher_is_a_weighted_mean_of_the_last_ones() -> None:
    outer = dataclasses.replace(TINY.outer, averaging=0.95)
    training = AgentTraining(dataclasses.replace(TINY, outer=outer))
    teachers = []
    for _ in range(3):
        training.outer_step()
        teachers.append({name: p.clone() for name, p in training.teacher.state_dict().items()})
    total = 1 + 0.95 + 0.95**2
    for name, found in training.average.items():
        expected = (0.95**2 * teachers[0][name] + 0.95 * teachers[1][name] + teachers[2][name]) / total
        torch.testing.assert_close(found, expected)
        assert (found - teachers[2][name]).abs().max() > 1e-4
    training.validate()
    assert all(training.best[name].equal(found) for name, found in training.average.items())
    outer = dataclasses.replace(TINY.outer, averaging=0.0)
    last = AgentTraining(dataclasses.replace(TINY, outer=outer))
    last.outer_step()
    last.outer_step()
    assert all(last.average[name].equal(p) for name, p in last.teacher.state_dict().items())


def test_ctrl_c_saves_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = AgentTraining(TINY)
    whole.run(tmp_path / "a")
    stopped = AgentTraining(TINY)
    step = stopped.outer_step

    def interrupted() -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        return step()

    monkeypatch.setattr(stopped, "outer_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "b")
    write_json(tmp_path / "b" / "config.json", {"kind": "agents", "config": to_dict(TINY)})
    with pytest.raises(ValueError, match="is not finished: minigtn rl train, as before with --resume"):
        runs.evaluate(tmp_path / "b")
    again = AgentTraining(TINY)
    again.load_checkpoint(tmp_path / "b")
    assert again.progress.step == 1
    again.run(tmp_path / "b")
    assert all(a.equal(b) for a, b in zip(state(whole), state(again), strict=True))


def test_meta_gradients_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    training = AgentTraining(
        dataclasses.replace(
            TINY, outer=dataclasses.replace(TINY.outer, tries=1, max_skipped=2, adjoint="checkpointed")
        )
    )
    with torch.no_grad():
        training.teacher.parts.y_raw[0, 0, 0] = math.nan
    with pytest.raises(AgentTrainingDiverged, match="2 meta-gradients in a row were not finite"):
        training.run(tmp_path)
    assert training.progress.skipped == 2


def test_a_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    main(["rl", "train", "--env", "CartPole-v1", "--out", out, *FLAGS])
    said = capsys.readouterr().out
    assert "return in gymnasium's CartPole-v1, n = 2 fresh policies, 2 episodes each" in said
    result = read_json(tmp_path / "run" / "result.json")
    assert result["config"]["env"] == "CartPole-v1"
    assert len(result["curve"]["mean"]) == 4
    assert 8 <= result["taught"]["worst_policy"] <= result["taught"]["mean"] <= 500
    assert runs.read_config(tmp_path / "run") == TINY
    page = (tmp_path / "run" / "report.html").read_text()
    for title in (
        "A taught policy at work",
        "Return against inner step",
        "Return against environment steps",
        "What it decides",
    ):
        assert title in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    before = (tmp_path / "run" / "result.json").read_bytes()
    main(["rl", "train", "--env", "CartPole-v1", "--out", out, *FLAGS, "--resume"])
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    main(["rl", "evaluate", out, "--judge.policies", "3"])
    assert read_json(tmp_path / "run" / "result.json")["taught"]["policies"] == 3
    main(["rl", "report", out])
    curriculum = minigtn.load_curriculum(out)
    assert curriculum.x.shape == (3, 4, 4)
    assert curriculum.mean == (0.0,) * 4
    assert curriculum.std == (1.0,) * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--env", "Pong-v5"], "there is no environment 'Pong-v5' here; there are CartPole-v1"),
        (["evaluate", "nowhere"], "nowhere holds no config.json"),
        (["dance"], "there is no command 'dance'; the commands are train, evaluate, report"),
        (["train", "--outer.gamma", "1.0"], "outer.gamma must be below 1"),
        (["train", "--outer.averaging", "1.0"], "outer.averaging must be in [0, 1), not 1.0"),
        (["train", "--teacher.spread", "0"], "teacher.spread must be positive"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["rl", *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_is_neither_overwritten_nor_mixed(tmp_path: Path) -> None:
    runs.train(TINY, tmp_path)
    with pytest.raises(ValueError, match="already holds a run; use --resume"):
        runs.train(TINY, tmp_path)
    with pytest.raises(ValueError, match=r"made with other settings \(seed: 0 -> 1\)"):
        runs.train(dataclasses.replace(TINY, seed=1), tmp_path, resume=True)
    with pytest.raises(ValueError, match="give one of them"):
        runs.train(TINY, tmp_path, resume=True, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"config": {}}')
    with pytest.raises(ValueError, match="holds no run of agents"):
        runs.read_config(tmp_path / "other")


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_runs_judges_and_draws(name: str, tmp_path: Path) -> None:
    outer = dataclasses.replace(TINY.outer, outer_steps=1)
    config = dataclasses.replace(
        commands.PRESETS[name], policy=TINY.policy, teacher=TINY.teacher, outer=outer, judge=TINY.judge
    )
    result = runs.train(config, tmp_path)
    assert result["taught"]["policies"] == 2
    assert report.write(tmp_path).stat().st_size > 10_000
    env = make(name)
    drawing = animate(
        config.policy.module(len(env.features), env.n_actions, 0), env, PALETTES["light"], steps=9
    )
    assert drawing.count(b"animateTransform") == 2 if name != "Pendulum-v1" else 1
    ET.fromstring(drawing)


def test_only_step_sizes_are_learned_when_states_are_not() -> None:
    config = StatesConfig(inner_steps=2, batch_size=3, learn_states=False)
    teacher = StateTeacher(config, make("CartPole-v1"), 0)
    assert {name for name, p in teacher.named_parameters() if p.requires_grad} == {
        "parts.lr_raw",
        "parts.momentum_raw",
    }


@pytest.mark.parametrize("states", ["learned", "generator"])
def test_a_teacher_hands_out_states_in_the_environments_units(states: str) -> None:
    env = make("Acrobot-v1")
    teacher = StateTeacher(StatesConfig(inner_steps=3, batch_size=50, states=states), env, 0)
    x, y, lr, momentum = teacher()
    assert x.shape == (3, 50, 6)
    assert y.shape == (3, 50, 3)
    torch.testing.assert_close(y.sum(-1), torch.ones(3, 50))
    assert (x.abs() <= 2 * torch.tensor(env.scale)).all()
    assert lr.tolist() == pytest.approx([0.5] * 3)
    assert momentum.tolist() == pytest.approx([0.5] * 3)
    (x.sum() + y[..., 0].sum() + lr.sum() + momentum.sum()).backward()
    assert all(p.grad is not None for p in teacher.parameters())


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_states_begin_as_widely_as_asked(name: str) -> None:
    env = make(name)
    wide, y, _, _ = StateTeacher(StatesConfig(inner_steps=3, batch_size=40), env, 0)()
    near, same, _, _ = StateTeacher(StatesConfig(inner_steps=3, batch_size=40, spread=0.1), env, 0)()
    units = near / torch.tensor(env.scale)
    assert 0.18 < units.std() < 0.22
    assert (wide / torch.tensor(env.scale)).std() > 0.7
    assert same.equal(y)
    through = StatesConfig(inner_steps=3, batch_size=40, spread=0.1, states="generator")
    plain = dataclasses.replace(through, spread=1.0)
    assert StateTeacher(through, env, 0)()[0].equal(StateTeacher(plain, env, 0)()[0])


def test_the_judge_plays_every_module_on_its_own_starts() -> None:
    env = make("CartPole-v1")
    right, left = (torch.nn.Linear(4, 2) for _ in range(2))
    for module, action in ((right, 1), (left, 0)):
        torch.nn.init.zeros_(module.weight)
        with torch.no_grad():
            module.bias.copy_(torch.nn.functional.one_hot(torch.tensor(action), 2).float())
    returns = judging.returns_in_gymnasium([right, left], env, 5, seed=3)
    assert returns.shape == (2, 5)
    assert (returns < 12).all()
    assert returns.equal(judging.returns_in_gymnasium([right, left], env, 5, seed=3))
    assert not returns.equal(judging.returns_in_gymnasium([right, left], env, 5, seed=4))
    longer = judging.returns_in_gymnasium([right, left], dataclasses.replace(env, force_mag=2.0), 5, seed=3)
    assert longer.mean() > returns.mean() + 3  # a weaker push takes longer to fall


def test_the_summary_counts_policies_not_episodes() -> None:
    found = judging.summary(torch.tensor([[500.0, 400.0], [100.0, 100.0]]))
    assert found["mean"] == 275.0
    assert found["std"] == pytest.approx(247.487, abs=1e-3)
    assert (found["worst_policy"], found["worst_episode"], found["policies"], found["episodes"]) == (
        100.0,
        100.0,
        2,
        2,
    )
