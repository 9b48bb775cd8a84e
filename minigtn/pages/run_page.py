"""A run on one page: one file, no request to anywhere; its one script plays the curriculum.

    page = run_page.write(Path("runs/demo"))          # report.html

What stands on it is made in :mod:`minigtn.pages.sheet`, :mod:`~minigtn.pages.player`,
:mod:`~minigtn.pages.judgement` and :mod:`~minigtn.pages.training`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from minigtn.pages import judgement, page, player, training
from minigtn.pages.run_folder import Run
from minigtn.pages.sheet import sheet
from minigtn.runs.files import write_atomically

CSS = Path(__file__).with_suffix(".css").read_text()


def write(folder: Path) -> Path:
    """Draw the run in ``folder`` into its ``report.html``, written atomically, and return that path.

    Works from ``config.json`` alone; what a run has not made yet is left out, and the page says so. The same
    files give the same bytes. Without scripts the page shows all steps at once.
    Cost: seconds; the page stays below 3 MB. Raises FileNotFoundError without a config.json, ValueError for
    an unreadable file.
    """
    target = folder / "report.html"
    write_atomically(target, _page(Run.read(folder)))
    return target


def _page(run: Run) -> str:
    moving = judgement.accuracy(run) + training.schedules(run)
    still = training.outer_loop(run) + judgement.tuning(run)
    played = player.controls(run) + player.stage(run) + f'<div class="grid">{moving}</div>' + sheet(run)
    body = _header(run) + judgement.headline(run) + f'<div class="play">{played}</div>'
    body += f'<div class="grid">{still}</div>' + judgement.confusion(run) + judgement.transfer(run)
    body += training.settings(run)
    script = player.SCRIPT if run.curriculum else ""
    return page.document(f"{run.config['dataset']}, {run.name}", body, CSS, script)


def _header(run: Run) -> str:
    teacher = run.config["teacher"]
    total = run.config["meta"]["outer_steps"]
    T, B = run.curriculum.x.shape[:2] if run.curriculum else (teacher["inner_steps"], teacher["batch_size"])
    intro = (
        f"{T} inner steps of {B} synthetic images, by a teacher that was meta-trained for "
        f"{run.outer_steps:,} outer steps."
    )
    missing = ""
    skipped = ""
    diverged = run.skipped_in_a_row >= run.config["meta"]["max_skipped"]
    if run.result is None:
        has = {"no metrics": run.records, "no curriculum": run.curriculum, "no test accuracy yet": None}
        missing = f"This run is not finished: {run.outer_steps:,} of {total:,} outer steps are done; it has "
        missing += (
            ", ".join(lack for lack, there in has.items() if not there)
            + "."
            + ("" if diverged else " The same command with --resume goes on.")
        )
    if run.records and run.records[-1]["skipped"]:
        skipped = (
            f"{run.records[-1]['skipped']:,} of {run.outer_steps:,} meta-gradients were not finite "
            "and were skipped."
        )
        if diverged:
            skipped += (
                f" The last {run.skipped_in_a_row:,} were so in a row: meta-training diverged. Begin anew "
                "with a lower meta.lr or teacher.lr, or with weight normalization."
            )
    title = f"A curriculum for {escape(run.config['dataset'])}"
    return f"<header><h1>{title}</h1><p>{intro}</p>{page.note(missing)}{page.note(skipped)}</header>"
