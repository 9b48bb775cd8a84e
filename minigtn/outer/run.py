"""A run from its settings to its result: meta-training, curriculum, judgement on test data, page.

config = minigtn.PRESETS["digits"]
result = minigtn.train(config, minigtn.data.load(config.dataset), Path("runs/demo"))
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from minigtn.config import EvaluationConfig, RunConfig
from minigtn.data import Dataset, averaged
from minigtn.outer.evaluate import CurriculumSource, final_evaluation
from minigtn.outer.loop import MetaTraining
from minigtn.outer.meta_gradient import estimated_bytes
from minigtn.outer.modules import judged
from minigtn.pages import run_page
from minigtn.pages.figures import png
from minigtn.runs.claim import claimed, goes_on
from minigtn.runs.distributed import ALONE, Workers
from minigtn.runs.files import environment, read_json, write_atomically, write_json
from minigtn.runs.interrupt import deferred_interrupt
from minigtn.runs.settings import from_dict, require_same, to_dict
from minigtn.teaching.curriculum import Curriculum, load_curriculum
from minigtn.teaching.pictures import MOST_CLASSES, evenly, real_column

MIB = 2**20


def train(
    config: RunConfig,
    data: Dataset,
    folder: Path,
    resume: bool = False,
    *,
    overwrite: bool = False,
    workers: Workers = ALONE,
) -> dict[str, Any]:
    """Meta-train a teacher, judge its curriculum on test data, write the run's ``folder`` and its page; the
    content of ``result.json``. Runs where the tensors of ``data`` are; prints how much memory it will need,
    and shows progress.

    ``resume`` goes on from the folder's checkpoint, to the same bits (a new folder simply starts);
    ``overwrite`` deletes a run that is there. Of several ``workers`` only the writer has a result.

    Raises ValueError for a folder that holds a run already (neither flag) or one with other settings, or in
    which another process is at work, CannotWrite, MetaTrainingDiverged, WorkerLost, and KeyboardInterrupt
    after Ctrl-C, with everything saved.
    """
    folder = Path(folder).expanduser()
    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite replaces it; give one of them")
    data = averaged(data, config.fidelity.image_size)
    training = MetaTraining(config, data, workers)  # it refuses what does not fit; nothing is written yet
    with claimed(folder) if workers.writer else nullcontext():
        if workers.writer:
            _begin(config, data, folder, resume, overwrite)
        workers.wait()  # for the folder
        training.catch_up(folder)
        if workers.writer:
            print(_plan(training, folder))
        if not training.finished:
            training.run(folder)
        return _finish(training, folder) if workers.writer else {}


def settings_of(folder: Path) -> RunConfig:
    """The settings that the run in ``folder`` was made with; FileNotFoundError or ValueError, in one
    sentence, if there is none."""
    saved = read_json(folder / "config.json")
    return from_dict(RunConfig, saved.get("config") if isinstance(saved, dict) else saved)


def evaluate_run(folder: Path, data: Dataset, evaluation: EvaluationConfig) -> dict[str, Any]:
    """Judge the finished run in ``folder`` again with these settings; replaces its result and its page."""
    config = replace(settings_of(folder), evaluation=evaluation)
    data = averaged(data, config.fidelity.image_size)
    with claimed(folder):
        old = folder / "result.json"
        seconds = read_json(old).get("seconds") if old.exists() else None
        curriculum = load_curriculum(folder).to(data.train.x.device)
        return _judge(config, data, folder, curriculum, _cost(curriculum, seconds))


def _begin(config: RunConfig, data: Dataset, folder: Path, resume: bool, overwrite: bool) -> None:
    """Claim the folder. Nothing that is there may be lost or mixed with other things."""
    path = folder / "config.json"
    now = environment(data.train.x.device)
    if goes_on(folder, resume, overwrite):
        require_same(settings_of(folder), config, folder)
        then = read_json(path)
        changed = [name for name in now if now[name] != then.get(name)]
        if changed:
            parts = " and ".join(changed)
            print(f"note: {folder} began with another {parts}; it goes on, but perhaps not to the same bits")
    if not path.exists():
        write_json(path, {"config": to_dict(config), **now})


def _plan(training: MetaTraining, folder: Path) -> str:
    config = training.config
    if training.finished:
        return f"{folder}: all {config.meta.outer_steps} outer steps are done already"
    device = training.data.train.x.device
    sizes = estimated_bytes(config, training.data, training.teacher)
    parts = ", ".join(f"{name} {size / MIB:,.1f}" for name, size in sizes.items())
    total = sum(sizes.values()) / MIB
    return f"{config.dataset} on {device}: estimated peak memory of an outer step {total:,.1f} MiB ({parts})"


def _finish(training: MetaTraining, folder: Path) -> dict[str, Any]:
    """Curriculum, judgement on test data, page."""
    curriculum = training.result()
    with deferred_interrupt():  # KeyboardInterrupt would get lost in safetensors
        curriculum.save(folder / "curriculum.safetensors")
    if (folder / "result.json").exists():
        run_page.write(folder)
        return read_json(folder / "result.json")
    taught: CurriculumSource = curriculum.to(training.data.train.x.device)
    if training.config.teacher.varies:
        taught = training.best_curriculum_for
    return _judge(
        training.config, training.data, folder, taught, _cost(curriculum, training.progress.seconds)
    )


def _cost(curriculum: Curriculum, seconds: float | None) -> dict[str, Any]:
    """What the meta-training took; where networks were ranked, the real trainings within those seconds, or
    the table in place of them; and the pool."""
    made = curriculum.provenance
    return {"seconds": seconds} | {name: made[name] for name in ("real_trainings", "pool") if name in made}


def _judge(
    config: RunConfig, data: Dataset, folder: Path, taught: CurriculumSource, cost: dict[str, Any]
) -> dict[str, Any]:
    started = time.monotonic()
    result = final_evaluation(config, data, taught)
    if config.evaluation.transfer:
        result["transfer"] = judged(config, data, taught)
    result |= {**cost, "evaluation_seconds": round(time.monotonic() - started, 3)}
    result |= {"config": to_dict(config), **environment(data.train.x.device)}
    examples = real_column(data, evenly(data.n_classes, MOST_CLASSES))
    write_atomically(folder / "real.png", png(examples))
    write_json(folder / "result.json", result)
    run_page.write(folder)
    return result
