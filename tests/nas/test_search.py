"""A search finishes exactly what was asked, each architecture once, whoever dies; the seed gives the same
search."""

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from postgres import NoPostgres, postgres

from minigtn import data
from minigtn.nas.candidate import Score
from minigtn.nas.proposals import propose
from minigtn.nas.rungs import goes_on, order
from minigtn.nas.scores import EstimatorConfig
from minigtn.nas.search import SearchConfig, search
from minigtn.nas.study import SearchStopped, Study
from tiny_space import Failing, Mortal, Slow, TinySpace, WideSpace

ESTIMATORS = EstimatorConfig(
    steps=3,
    batch_size=20,
    valid_images=60,
    valid_batch=60,
    real_lrs=(0.1,),
    real_momenta=(0.5,),
    tuning_networks=1,
)
DIGITS = data.load("digits")


def config(tmp_path, **changes) -> SearchConfig:
    settings = {
        "space": "tiny",
        "estimator": "params",
        "trials": 8,
        "storage": f"sqlite:///{tmp_path}/study.db",
        "population": 4,
        "tournament": 2,
    }
    return SearchConfig(**{**settings, "heartbeat": 0.1, **changes})


def run(config, space=None, estimator=None, estimators=ESTIMATORS):
    return search(config, estimators, DIGITS, space or TinySpace(), estimator, bar=False)


def trials(config):
    return read(config, lambda study: study.get_trials())


def read(config, what):
    storage = optuna.storages.RDBStorage(config.storage)
    try:
        return what(optuna.load_study(study_name=config.study, storage=storage))
    finally:
        storage.engine.dispose()


def finished(config):
    return [t.user_attrs["arch"] for t in trials(config) if t.state.name == "COMPLETE"]


# ---- the seed ----


@pytest.mark.parametrize("sampler", ["random", "tpe", "evolution"])
def test_same_seed_same_architectures_and_scores_stopped_or_not(tmp_path, sampler):
    settings = config(tmp_path, sampler=sampler, estimator="real", trials=7)
    whole = run(settings)
    again = replace(settings, study="again", trials=3)
    run(again)
    resumed = run(replace(again, trials=7))
    assert resumed == whole
    assert finished(again) == finished(settings)
    assert len(set(finished(settings))) == 7
    assert [s for _, s in whole.ranking] == sorted((s for _, s in whole.ranking), reverse=True)
    other = replace(settings, study="other", seed=1)
    run(other)
    assert finished(other) != finished(settings)


@pytest.mark.parametrize(("sampler", "better"), [("random", False), ("tpe", True), ("evolution", True)])
def test_samplers_that_learn_find_more(tmp_path, sampler, better):
    """The score is the number the architecture writes in base 3; a learning sampler's last 20 of 60 are
    better than its first 20."""
    settings = config(tmp_path, space="wide", sampler=sampler, population=20, tournament=5)
    space = WideSpace()
    history = []
    known = set()
    for _ in range(60):
        arch = propose(settings, space, history, known)
        assert arch not in known
        known.add(arch)
        history.append((arch, float(int(arch, 3))))
    values = [score for _, score in history]
    gain = (sum(values[-20:]) - sum(values[:20])) / 20 / 6561
    assert (gain > 0.2) == better


def test_trials_hold_what_the_dashboard_shows(tmp_path):
    settings = config(tmp_path, estimator="real", trials=2)
    run(settings)
    space = TinySpace()
    for trial in trials(settings):
        arch = trial.user_attrs["arch"]
        assert trial.params == space.to_choices(arch)
        assert trial.user_attrs["params"] == space.params(arch)
        assert trial.user_attrs["flops"] == space.flops(arch)
        assert trial.user_attrs["seconds"] > 0
        assert trial.user_attrs["valid_batch"] == 60
    assert read(settings, lambda study: study.user_attrs)["tuning"]["real"]["lr"] == 0.1


# ---- rungs ----


def test_longer_estimates_are_for_the_better_third(tmp_path):
    """Who went on is found again from the scores alone, in the order in which networks came."""
    settings = config(
        tmp_path, estimator="flops+naswot", rungs=("real-2", "real-4"), sampler="random", trials=15
    )
    found = run(settings)
    done = [t for t in trials(settings) if t.state.name == "COMPLETE"]
    climbs = [t.user_attrs["scores"] for t in done]
    lengths = [len(climb) for climb in climbs]
    assert 5 <= lengths.count(1) < 13
    assert lengths.count(3) >= 1
    for i, climb in enumerate(climbs):
        for rung, look in enumerate(climb[:2]):
            before = [other[rung] for other in climbs[:i] if len(other) > rung]
            assert goes_on(look, before, 3) == (len(climb) > rung + 1)
    assert all([len(look) for look in climb] == [2, 1, 1][: len(climb)] for climb in climbs)
    assert [found.reached[arch] for arch, _ in found.ranking] == sorted(found.reached.values(), reverse=True)
    assert {t.user_attrs["arch"]: t.value for t in done} == dict(found.ranking)
    assert set(read(settings, lambda study: study.user_attrs)["tuning"]) == {"real-2", "real-4"}
    again = run(replace(settings, study="again", trials=6))
    assert len(again.ranking) == 6
    assert run(replace(settings, study="again")) == found


def test_the_better_third_of_those_seen_so_far_goes_on():
    assert goes_on([1.0], [], 3)
    assert not goes_on([1.0], [[2.0]], 3)
    assert not goes_on([1.0], [[2.0], [0.0], [0.0], [0.0]], 3)  # the second of five: one goes on
    assert goes_on([1.0], [[2.0], [0.0], [0.0], [0.0], [0.0]], 3)
    assert goes_on([1.0], [[2.0], [0.0], [0.0]], 2)
    assert not goes_on([None], [[0.0], [0.0], [0.0]], 3)
    # joined: the best mean of both ranks, whatever their scales
    assert goes_on([1e6, 0.2], [[1e7, 0.0], [0.0, 0.3]], 3)
    assert not goes_on([1e6, 0.2], [[1e7, 0.25], [0.0, 0.3]], 3)


def test_who_came_further_is_better_and_of_those_who_came_as_far_the_better_one():
    climbs = [[[5.0]], [[9.0], [-3.0]], [[8.0], [-2.0]], [[1.0]], [[None]], [[5.0]]]
    assert order(climbs) == [2, 4, 5, 1, 0, 2]
    assert order([]) == []


# ---- failures ----


def test_failures_are_tried_again_counted_and_replaced_out_of_memory_with_half_the_batch(tmp_path):
    settings = config(tmp_path, sampler="random", trials=10)
    log = tmp_path / "log"
    found = run(settings, estimator=Failing(str(log)), estimators=replace(ESTIMATORS, valid_batch=240))
    archs = finished(settings)
    assert len(archs) == len(set(archs)) == len(found.ranking) == 10
    batches = {}
    for arch, batch in (line.split() for line in log.read_text().splitlines()):
        batches.setdefault(arch, []).append(int(batch))
    expected = {"0": [240], "1": [240, 120, 60], "2": [240] * 3}
    assert {arch[0] for arch in batches} == {"0", "1", "2"}
    assert all(seen == expected[arch[0]] for arch, seen in batches.items())
    assert not any(arch.startswith("2") for arch in archs)
    kinds = [arch[0] for arch in batches]
    assert found.failures == {
        "ArithmeticError": 3 * kinds.count("2"),
        "OutOfMemoryError": 2 * kinds.count("1"),
    }
    assert {t.user_attrs["valid_batch"] for t in trials(settings) if t.state.name == "COMPLETE"} == {240, 60}


def test_a_score_that_is_not_finite_is_the_worst(tmp_path):
    class Infinite(Slow):
        def score(self, network):
            value = float("nan" if network.arch == first else "inf" if network.arch == second else "1")
            return {"number": Score(value, 0.0)}

    settings = config(tmp_path, sampler="tpe", trials=8)
    run(replace(settings, study="before"), estimator=Slow())
    first, second, *_ = finished(replace(settings, study="before"))
    found = run(settings, estimator=Infinite())
    assert {arch for arch, score in found.ranking[-2:] if score == float("-inf")} == {first, second}
    assert [score for _, score in found.ranking[:-2]] == [1.0] * 6


def test_a_fault_of_all_networks_stops_the_search(tmp_path):
    class Broken(Slow):
        def score(self, network):
            raise TypeError("broken for all")

    with pytest.raises(
        SearchStopped, match=r"10 architectures failed 3 times each.*TypeError: broken for all"
    ):
        run(config(tmp_path), estimator=Broken())


def test_ctrl_c_withdraws_the_trial_and_the_next_run_takes_it_up(tmp_path):
    class Interrupted(Slow):
        def score(self, network):
            raise KeyboardInterrupt

    settings = config(tmp_path, trials=3)
    with pytest.raises(KeyboardInterrupt):
        run(settings, estimator=Interrupted())
    (stopped,) = trials(settings)
    assert stopped.state.name == "PRUNED"
    found = run(settings, estimator=Slow())
    assert found.failures == {}
    assert finished(settings)[0] == stopped.user_attrs["arch"]
    assert [t.state.name for t in trials(settings)] == ["PRUNED", *["COMPLETE"] * 3]


# ---- the three rules ----


class Worker(Study):
    """A worker that proposes what it is told."""

    def take(self, arch, meanwhile=lambda: None):
        def propose(history, known):
            meanwhile()
            return arch or pytest.fail("asked for a new architecture")

        return self.claim(self.trials(), TinySpace(), propose, 60)

    def states(self):
        return [trial.state.name for trial in self.trials()]


@pytest.fixture
def workers(tmp_path):
    """Two of them, of a study for two trials."""
    workers = [Worker(f"sqlite:///{tmp_path}/s.db", "s", 2, 0.02, {}) for _ in range(2)]
    yield workers
    for worker in workers:
        worker.close()


def test_of_two_workers_with_one_architecture_the_later_withdraws(workers):
    a, b = workers
    assert a.take("0120", meanwhile=lambda: b.take("0120")) is None
    assert a.states() == ["RUNNING", "PRUNED"]


def test_of_one_trial_too_many_the_later_withdraws(workers):
    a, b = workers
    a.take("0000")
    assert a.take("0120", meanwhile=lambda: b.take("2222")) is None
    assert a.states() == ["RUNNING", "RUNNING", "PRUNED"]
    assert b.take(None) is None


def test_rule_1_is_what_keeps_the_count(workers, monkeypatch):
    """The tests above can fail: without the rule the same workers run one architecture twice, and one trial
    too many."""
    monkeypatch.setattr("minigtn.nas.study._admitted", lambda *_: True)
    a, b = workers
    assert a.take("0120", meanwhile=lambda: b.take("0120")).arch == "0120"
    assert a.take("2222")
    assert a.states() == ["RUNNING"] * 3


@pytest.fixture
def clock(monkeypatch):
    """Whoever watches reads this clock; it stands still until it is set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("minigtn.nas.study.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_lost_worker_is_noticed_its_architecture_retried_and_its_late_result_refused(workers, clock):
    a, b = workers
    lost = a.take("0120")
    # six beats of 0.02 s after it was first seen
    for clock.now, state in ((5.0, "RUNNING"), (5.1, "RUNNING"), (5.13, "FAIL")):
        b.fail_lost(b.trials())
        assert b.states() == [state]
    retried = b.take(None)
    assert retried.arch == "0120"
    a.end(lost.trial, "COMPLETE", 1.0)  # a was only asleep
    b.end(retried.trial, "COMPLETE", 2.0)
    assert [(t.state.name, t.value) for t in a.trials()] == [("FAIL", None), ("COMPLETE", 2.0)]


def test_a_beating_worker_is_left_alone(workers, clock):
    a, b = workers
    with a.beating(a.take("0120").trial):
        for clock.now in (100.0, 200.0, 300.0):
            before = b.trials()[0].user_attrs["beat"]
            while b.trials()[0].user_attrs["beat"] == before:
                time.sleep(0.01)
            b.fail_lost(b.trials())
    assert b.states() == ["RUNNING"]


def test_a_worker_whose_process_is_gone_is_noticed_at_once(workers, clock, monkeypatch):
    a, b = workers
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with monkeypatch.context() as another:
        another.setattr("os.getpid", lambda: ended.pid)
        a.take("0120")
    a.take("2222")
    b.fail_lost(b.trials())
    assert b.states() == ["FAIL", "RUNNING"]
    assert b.trials()[0].user_attrs["error"] == "lost: its process is gone"
    assert b.take(None).arch == "0120"


def test_a_search_that_was_killed_goes_on_to_the_same_networks(tmp_path, monkeypatch):
    """What the killed process had in hand comes first, so that whatever is proposed next sees its score."""
    settings = config(tmp_path, sampler="evolution", trials=7, population=3, estimator="flops")
    run(settings)
    again = replace(settings, study="again")

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    for trials_done in (4, 5):
        run(replace(again, trials=trials_done))
        with subprocess.Popen(["true"]) as ended:
            ended.wait()
        with monkeypatch.context() as dying:
            dying.setattr("minigtn.nas.search._score", killed)
            dying.setattr("os.getpid", lambda pid=ended.pid: pid)
            with pytest.raises(Killed):
                run(again)
    assert [t.state.name for t in trials(again)].count("RUNNING") == 1
    run(again)
    assert finished_in_order(again) == finished_in_order(settings)


def finished_in_order(config):
    """Architectures and scores, in the order of their first proposal."""
    found = trials(config)
    scores = {t.user_attrs["arch"]: t.value for t in found if t.state.name == "COMPLETE"}
    return [(arch, scores[arch]) for arch in dict.fromkeys(t.user_attrs["arch"] for t in found)]


def test_what_a_killed_worker_began_beyond_those_asked_for_is_ended(tmp_path, monkeypatch):
    settings = config(tmp_path, trials=3)
    run(settings)
    worker = Worker(
        settings.storage, settings.study, 4, 10.0, read(settings, lambda s: s.user_attrs)["settings"]
    )
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with monkeypatch.context() as another:
        another.setattr("os.getpid", lambda: ended.pid)
        worker.take(next(arch for arch in ("0000", "0001", "0002", "0010") if arch not in finished(settings)))
    worker.close()
    assert [t.state.name for t in trials(settings)].count("RUNNING") == 1
    assert run(settings).failures == {"lost": 1}
    assert all(t.state.is_finished() for t in trials(settings))


def test_processes_of_another_host_are_not_looked_for(workers, clock, monkeypatch):
    a, b = workers
    monkeypatch.setattr("minigtn.nas.study._host", lambda: "elsewhere/1")
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with monkeypatch.context() as another:
        another.setattr("os.getpid", lambda: ended.pid)
        a.take("0120")
    monkeypatch.setattr("minigtn.nas.study._host", lambda: "here/1")
    b.fail_lost(b.trials())
    assert b.states() == ["RUNNING"]


def away(times):
    """A call of the database that fails so often, then gives back its argument."""
    calls = []

    def call(x):
        calls.append(x)
        if len(calls) <= times:
            raise sqlalchemy.exc.OperationalError(
                "SELECT", {}, Exception("server closed the connection\nwhy")
            )
        return x

    return call


def test_a_server_that_goes_away_is_waited_for_and_no_beat_is_held_against_anyone(workers, monkeypatch):
    a, b = workers
    naps = []
    clock = SimpleNamespace(monotonic=lambda: 100.0 * len(naps), sleep=naps.append)
    monkeypatch.setattr("minigtn.nas.study.time", clock)
    monkeypatch.setattr(b, "_url", "postgresql://server/db")
    a.take("0120")
    b.fail_lost(b.trials())
    assert b._ask(away(3), 7) == 7
    assert naps == [1.0] * 3
    b.fail_lost(b.trials())  # 300 s later, without a beat that could be seen
    assert b.states() == ["RUNNING"]
    naps.append(0)
    b.fail_lost(b.trials())
    assert b.states() == ["FAIL"]


@pytest.mark.parametrize("url", ["postgresql://me:secret@server/db", "sqlite:///s.db"])
def test_a_database_that_stays_away_is_one_sentence(workers, monkeypatch, url):
    a, _ = workers
    monkeypatch.setattr("minigtn.nas.study.PATIENCE", 2.0)
    monkeypatch.setattr("minigtn.nas.study.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(a, "_url", url)
    with pytest.raises(
        SearchStopped, match=r"database .* failed \(.*server closed the connection\).* goes on$"
    ) as e:
        a._ask(away(1 if "sqlite" in url else 99), 7)
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)


def test_a_curriculum_that_is_missing_leaves_no_study_behind(tmp_path):
    """Else the right command would be refused after the wrong one: other settings."""
    settings = config(tmp_path, estimator="gtn", trials=1)
    with pytest.raises(ValueError, match="gtn and gtn-real need a curriculum"):
        run(settings)
    assert not (tmp_path / "study.db").exists()
    run(settings, estimators=replace(ESTIMATORS, curriculum="digits-10"))


def test_a_study_keeps_its_settings(tmp_path):
    run(config(tmp_path, trials=1))
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 -> 1\)"):
        run(config(tmp_path, trials=1, seed=1))


def test_no_database_is_one_sentence_without_the_password(tmp_path):
    with pytest.raises(ValueError, match=r"cannot open .*postgresql://me:\*\*\*@127.0.0.1:1/x"):
        run(config(tmp_path, storage="postgresql://me:secret@127.0.0.1:1/x"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"sampler": "grid"}, "there is no sampler 'grid'; there are random, tpe, evolution"),
        ({"tournament": 9}, "cannot be drawn from a population of 4"),
        ({"heartbeat": 0.0}, "heartbeat must be a positive number"),
        ({"storage": "study.db"}, "storage must be sqlite:///FILE"),
        ({"trials": 82}, "the space tiny has at most 81"),
        ({"estimator": "magic"}, "there is no estimator 'magic'"),
        ({"estimator": "flops+magic"}, "there is no estimator 'magic'"),
        ({"rungs": ("real-0",)}, "there is no estimator 'real-0'"),
        ({"rungs": ("real", "params")}, "each estimate has one rung, but params is named twice"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(config(tmp_path, **changes))


# ---- many processes ----


def check_with_one_killed(config, tmp_path, after):
    """A worker is killed with SIGKILL in the middle of the first score after ``after`` others were begun."""
    killed = tmp_path / "killed"
    found = run(config, WideSpace(), Mortal(0.02, log=str(tmp_path / "log"), killed=str(killed), after=after))
    archs = finished(config)
    assert len(archs) == len(set(archs)) == config.trials
    assert sorted(arch for arch, _ in found.ranking) == sorted(archs)
    assert all(score == int(arch, 3) for arch, score in found.ranking)
    assert killed.read_text() in archs  # tried again
    # on a machine that is very busy, perhaps more than the one that was killed
    assert set(found.failures) == {"lost"}
    assert all(t.state.is_finished() for t in trials(config))


def test_sqlite_two_workers_one_killed(tmp_path):
    check_with_one_killed(
        config(tmp_path, space="wide", trials=12, workers=2, heartbeat=0.5), tmp_path, after=4
    )


def test_postgresql_three_workers_one_killed_100_trials(tmp_path):
    with postgresql() as url:
        check_with_one_killed(
            config(tmp_path, space="wide", storage=url, trials=100, workers=3, heartbeat=0.5),
            tmp_path,
            after=40,
        )


@contextmanager
def postgresql():
    """The URL of a server of our own; skips where there is none."""
    try:
        with postgres() as server:
            yield server.url
    except NoPostgres as reason:
        pytest.skip(str(reason))
