"""A study in a database that any number of processes on any number of hosts share: exactly as many trials as
asked, each with an architecture of its own, whoever is killed. Optuna keeps the trials; who does what follows
from three rules over the list of trials alone.

1. A worker writes its trial, architecture and all, in one transaction, and *then* reads the list. It goes on
   only if fewer trials with lower numbers are running or complete than were asked for, and none of them has
   the same architecture; otherwise it withdraws. Numbers are given out in order, so of too many, or of two
   alike, the later one always sees the earlier.
2. A worker beats: it counts up an attribute of its trial. A beat that stands still for long, on the clock of
   whoever watches, marks the trial as failed; so does, at once, a worker of this host whose process is gone.
   Only a running trial can be completed or failed, so a worker that was merely asleep loses its result.
3. An architecture that has failed, fewer than ``TRIES`` times, and is neither running nor complete, comes
before new ones.

Nothing is queued, so there is nothing to lose: a kill between any two lines leaves a running trial, found by
rule 2. (Optuna's own heartbeat misses a worker killed before its first beat, a kill between failing and
queueing, and exceptions: optuna/optuna#6085.) A database that goes away is waited for; a watcher that could
not see beats for a while begins to watch anew.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from minigtn.networks.spaces import Space
from minigtn.runs.settings import require_same

TRIES = 3  # of an architecture that fails, before it is given up
BEATS = 6  # that a worker may miss
PATIENCE = 300.0  # seconds that a server may be away
CONNECT_TIMEOUT = 10  # seconds

# finished architectures, in the order in which they were first proposed, and Optuna's trial of each
Finished = list[tuple[str, Any]]


class SearchStopped(RuntimeError):
    """The search cannot go on by itself; what is finished is kept."""


class Claim(NamedTuple):
    """A running trial of this worker, by Optuna's id; ``valid_batch`` is smaller than usual where memory ran
    out before."""

    trial: int
    arch: str
    valid_batch: int


class Study:
    """One worker's view of the study ``name`` in the database at ``url``, opened or created.

    ``settings`` (JSON) are kept with it; ValueError where others are kept already, or where the database
    cannot be opened.
    """

    def __init__(self, url: str, name: str, trials: int, heartbeat: float, settings: dict[str, Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name = name
        self.wanted = trials
        self.heartbeat = heartbeat
        self._url = url
        self._blind = False  # whether the database was away since the beats were last looked at
        self._storage = _open(url)
        self._study = self._ask(
            optuna.create_study,
            study_name=name,
            storage=self._storage,
            direction="maximize",
            load_if_exists=True,
        )
        self._id = self._ask(self._storage.get_study_id_from_name, name)
        # trial's number: its beat, and when that was first seen
        self._beats: dict[int, tuple[int, float]] = {}
        saved = self.recall("settings")
        if saved is None:
            self.remember("settings", settings)
        else:
            require_same(saved, settings, f"study {name!r}")

    def close(self) -> None:
        """Close the connections to the database."""
        self._storage.engine.dispose()

    def recall(self, name: str) -> Any:
        """What :meth:`remember` stored; None if nothing."""
        return self._ask(lambda: self._study.user_attrs).get(name)

    def remember(self, name: str, content: Any) -> None:
        """Store JSON with the study, for all its workers."""
        self._ask(self._study.set_user_attr, name, content)

    def trials(self) -> list[Any]:
        """Optuna's trials, by number. Cost: a query for those that were not finished when last read."""
        return self._ask(self._study.get_trials, deepcopy=False)

    def fail_lost(self, trials: Iterable[Any]) -> bool:
        """Rule 2, to be called again and again while no trial of this worker is running. Whether any was
        lost."""
        lost = False
        now = time.monotonic()
        if self._blind:
            self._blind = False
            self._beats.clear()
        for trial in in_state(trials, "RUNNING"):
            if _is_gone(trial.user_attrs.get("worker", "")):
                self.end(trial._trial_id, "FAIL", error="lost: its process is gone")
                lost = True
                continue
            beat, since = self._beats.get(trial.number, (None, now))
            seen = trial.user_attrs.get("beat", 0)
            if seen != beat:
                self._beats[trial.number] = (seen, now)
            elif now - since > BEATS * self.heartbeat:
                self.end(trial._trial_id, "FAIL", error="lost: its worker gave no sign of life")
                lost = True
        return lost

    def claim(
        self, trials: list[Any], space: Space, propose: Callable[[Finished, set[str]], str], valid_batch: int
    ) -> Claim | None:
        """Rules 1 and 3, given the list of trials: a trial to run, or None where all that were asked for are
        taken.

        ``propose(finished, known)`` is asked for a new architecture where there is none to be tried again.
        SearchStopped where so many architectures were given up that the fault is hardly theirs.
        """
        from optuna.trial import TrialState, create_trial

        if not _admitted(trials, self.wanted):
            return None
        tried: dict[str, list[Any]] = {}
        for trial in trials:
            tried.setdefault(trial.user_attrs["arch"], []).append(trial)
        failed = {arch: in_state(ts, "FAIL") for arch, ts in tried.items()}
        given_up = [ts for ts in failed.values() if len(ts) >= TRIES]
        if len(given_up) >= max(10, self.wanted // 10):
            error = given_up[-1][-1].user_attrs.get("error")
            raise SearchStopped(
                f"{len(given_up)} architectures failed {TRIES} times each, so the search stops; the last "
                f"error was {error}"
            )
        again = [
            arch
            for arch, ts in tried.items()
            if not in_state(ts, "RUNNING", "COMPLETE") and len(failed[arch]) < TRIES
        ]
        finished = [(arch, t) for arch, ts in tried.items() for t in in_state(ts, "COMPLETE")]
        arch = again[0] if again else propose(finished, set(tried))
        valid_batch = min(
            (t.user_attrs["next_batch"] for t in failed.get(arch, ()) if "next_batch" in t.user_attrs),
            default=valid_batch,
        )
        attrs = {
            "arch": arch,
            "beat": 0,
            "worker": f"{_host()}:{os.getpid()}",
            "valid_batch": valid_batch,
        }
        attrs |= {"params": space.params(arch), "flops": space.flops(arch)}
        mine = create_trial(state=TrialState.RUNNING, user_attrs=attrs, **parameters(space, arch))
        trial_id = self._ask(self._storage.create_new_trial, self._id, mine)
        number = self._ask(self._storage.get_trial_number_from_id, trial_id)
        now = self.trials()
        if _admitted((t for t in now if t.number < number), self.wanted, arch):
            return Claim(trial_id, arch, valid_batch)
        self.end(trial_id, "PRUNED", error="withdrawn: another worker was faster")
        return None

    def end(self, trial: int, state: str, value: float | None = None, **attrs: Any) -> None:
        """Finish a running trial as COMPLETE, FAIL or PRUNED; where it is finished already, by whomever,
        nothing happens."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        self.note(trial, **attrs)
        with suppress(UpdateFinishedTrialError):
            values = None if value is None else [value]
            self._ask(self._storage.set_trial_state_values, trial, TrialState[state], values)

    def note(self, trial: int, **attrs: Any) -> None:
        """Attributes (JSON) of a running trial, for all workers to see; where it is finished already, nothing
        happens."""
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):
            for name, content in attrs.items():
                self._ask(self._storage.set_trial_user_attr, trial, name, content)

    def others(self, trial: int, name: str) -> list[Any]:
        """That attribute of all running and finished trials but this one, where they have it."""
        trials = in_state(self.trials(), "RUNNING", "COMPLETE")
        return [t.user_attrs[name] for t in trials if t._trial_id != trial and name in t.user_attrs]

    @contextmanager
    def beating(self, trial: int) -> Iterator[None]:
        """Count up the trial's beat until the block ends; a beat that cannot be written is a missed one."""
        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(self.heartbeat):
                count += 1
                try:
                    self._storage.set_trial_user_attr(trial, "beat", count)
                except Exception:
                    self._blind = True

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _ask(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What ``call`` says. A server that is away is waited for; SearchStopped after ``PATIENCE`` seconds,
        or for any other fault of the database."""
        import sqlalchemy.exc as faults
        from optuna.exceptions import StorageInternalError

        tries = 0
        while True:
            try:
                return call(*args, **named)
            except (faults.SQLAlchemyError, StorageInternalError) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                away = isinstance(cause, faults.OperationalError | faults.InterfaceError)
                if not away or _is_sqlite(self._url) or tries >= PATIENCE:
                    said = str(cause or error).strip().splitlines()[0]
                    raise SearchStopped(
                        f"the study's database {_public(self._url)} failed ({said}); what is finished is "
                        "kept, and the same command goes on"
                    ) from error
            self._blind = True
            tries += 1
            time.sleep(1.0)


def in_state(trials: Iterable[Any], *states: str) -> list[Any]:
    """Those of the trials that are in one of Optuna's states: RUNNING, COMPLETE, FAIL, PRUNED (here:
    withdrawn or stopped)."""
    return [trial for trial in trials if trial.state.name in states]


def failures(trials: Iterable[Any]) -> dict[str, int]:
    """How often each kind of failure was met."""
    return dict(
        Counter(trial.user_attrs.get("error", "lost").split(":")[0] for trial in in_state(trials, "FAIL"))
    )


def parameters(space: Space, arch: str) -> dict[str, Any]:
    """The architecture as Optuna's parameters, for TPE and for the dashboard."""
    from optuna.distributions import CategoricalDistribution

    return {
        "params": dict(space.to_choices(arch)),
        "distributions": {
            name: CategoricalDistribution(list(options)) for name, options in space.choices.items()
        },
    }


def _admitted(trials: Iterable[Any], wanted: int, arch: str | None = None) -> bool:
    """Whether one more trial, of ``arch``, may run beside these."""
    taken = [trial.user_attrs["arch"] for trial in in_state(trials, "RUNNING", "COMPLETE")]
    return len(taken) < wanted and arch not in taken


def _host() -> str:
    """This host and, on Linux, the namespace that its process ids belong to."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{namespace.stat().st_ino if namespace.exists() else 0}"


def _is_gone(worker: str) -> bool:
    """Whether this is the name of a worker on this host whose process has ended."""
    host, _, process = worker.rpartition(":")
    if host != _host() or os.name != "posix":
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def _open(url: str) -> Any:
    """Optuna's storage at ``url``. On SQLite every transaction takes the lock at its start: Optuna reads a
    trial's state and then writes it, which two processes must not do at once (PostgreSQL locks the row)."""
    import optuna
    import sqlalchemy

    sqlite = _is_sqlite(url)
    arguments: dict[str, Any] = {"connect_args": {"timeout": 60}}
    if not sqlite:
        arguments = {"pool_pre_ping": True}
        if url.startswith("postgresql"):
            arguments["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT}
    for attempt in range(3):
        try:
            storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
            break
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
            if attempt < 2:  # two workers that make the tables at once get in each other's way
                time.sleep(0.5)
                continue
            cause = str(error.__cause__ or error).strip().splitlines()[0]
            raise ValueError(
                f"cannot open the study's database {_public(url)} ({cause}); is its server running, and its "
                "driver installed?"
            ) from error
    if sqlite:
        storage.engine.dispose()
        sqlalchemy.event.listen(
            storage.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None)
        )
        sqlalchemy.event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")
        )
    return storage


def _public(url: str) -> str:
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "(unreadable)"
