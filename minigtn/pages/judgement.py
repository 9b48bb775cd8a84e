"""What the curriculum is worth, on a run's page: test accuracies, beside real data, and what lies behind."""

from __future__ import annotations

from html import escape

import numpy as np

from minigtn.pages import page
from minigtn.pages.figures import Line, Panel
from minigtn.pages.run_folder import Run
from minigtn.pages.wording import duration, interval_of_difference, percent, points, short
from minigtn.teaching.pictures import MOST_CLASSES


def headline(run: Run) -> str:
    """The figures that a reader came for."""
    if run.result is None:
        return ""
    r = run.result
    n = r["n_learners"]
    numbers = "".join(
        f'<div class="{colour}">{label}<b>{percent(r[f"{arm}_accuracy"])} '
        f"<small>± {percent(r[f'{arm}_accuracy_std'])}</small></b></div>"
        for arm, colour, label in (
            ("gtn", "taught", "taught by the curriculum"),
            ("real", "real", "real data, tuned"),
        )
    )
    half = interval_of_difference(r["gtn_accuracy_std"], r["real_accuracy_std"], n)
    difference = points(r["gtn_accuracy"] - r["real_accuracy"])
    numbers += f"<div>difference<b>{difference} <small>± {100 * half:.1f} points</small></b></div>"
    caption = (
        f"Test accuracy after {r['inner_steps']} inner steps of {r['batch_size']} images: mean ± 1 standard "
        f"deviation over n = {n} fresh learners. Of the difference: its 95 % interval over such learners "
        "(Welch's t). There is one teacher: what another outer seed would give, it does not say."
    )
    spent = run.seconds or r.get("seconds")
    if spent:
        number, unit = duration(spent)
        numbers += f"<div>meta-training, once<b>{number} <small>{unit}</small></b></div>"
    lack = ""
    if r["seconds_per_learner"] is None:
        lack = (
            "This result is older than the measurement of how long the training of one learner takes; "
            "minigtn evaluate takes it."
        )
    else:
        seconds = {arm: short(r["seconds_per_learner"][arm]) for arm in ("gtn", "real")}
        numbers += f"<div>training one learner<b>{seconds['gtn']} <small>s</small></b></div>"
        caption += (
            f" Time of one learner for its {r['inner_steps']} steps: {seconds['gtn']} s on the curriculum, "
            f"{seconds['real']} s on real data, medians of {r['seconds_per_learner'].get('runs', 5)} "
            f"runs ({r['device']})."
        )
        if spent:
            caption += (
                " Meta-training took as long as "
                f"{_two_digits(spent / r['seconds_per_learner']['gtn'])} of these trainings."
            )
    return page.card("", f'<div class="numbers">{numbers}</div>', caption, lack)


def _two_digits(number: float) -> str:
    """4017 as 4,000."""
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 10 else f"{number:.2g}"


def accuracy(run: Run) -> str:
    if run.result is None:
        return ""
    r = run.result
    longer = run.result["longer"]
    steps = r["steps"]
    T = r["inner_steps"]
    B = r["batch_size"]
    seconds = r["seconds_per_learner"]

    def line(
        steps: list[int], curve: dict[str, list[float]], colour: str, label: str, dashed: bool = False
    ) -> Line:
        mean, std = (100 * np.array(curve[part]) for part in ("mean", "std"))
        return Line(np.array(steps), mean, colour, label, spread=std, dashed=dashed)

    lines = [
        line(steps, r["real_curve"], "real", "real data, tuned"),
        line(steps, r["gtn_curve"], "taught", "taught by the curriculum"),
    ]
    reached = r["steps_to_match_real"]
    caption = (
        f"Taught learners {'reach' if reached else 'do not reach'} the {percent(r['real_accuracy'])} "
        "at which real data end"
    )
    caption += f" within {reached} of {T} steps" if reached else ""
    apart = 1.4
    if longer:
        last = longer["steps"][-1]
        needed = longer["steps_to_match"]
        lines.insert(0, line(longer["steps"], longer["curve"], "real", f"real, {last:,} steps", dashed=True))
        steps = longer["steps"][:: -1 - len(longer["steps"]) // 10][::-1]
        apart = 2
        caption += (
            f". Tuned for {last:,} steps (learning rate {longer['lr']:g}, momentum "
            f"{longer['momentum']:g}), real data "
        )
        caption += f"need at most {needed:,} steps for" if needed else "do not reach"
        caption += f" the {percent(r['gtn_accuracy'])} that the curriculum gives in {T}"
    caption += f"; bands are ± 1 standard deviation over {r['n_learners']} learners."
    unit, per_second = ("milliseconds", 1000) if seconds and seconds["gtn"] < 1 else ("seconds", 1)
    if seconds:
        caption += f" The {unit} are those of training one taught learner, in proportion to its steps."
    # or the numbers would overlap
    shown = [t for t, later in zip(steps, [*steps[1:], np.inf], strict=True) if later >= apart * t]
    ticks = {
        t: f"{t:,}\n{short(t * B)}" + (f"\n{short(per_second * seconds['gtn'] * t / T)}" if seconds else "")
        for t in shown
    }
    scales = "inner step / images" + (f" / {unit}" if seconds else "")
    panels = [Panel("test accuracy (%)", lines)]
    follow = [step + 1 for step in run.shown_steps]
    return page.curves("Accuracy of a fresh learner", panels, scales, caption, ticks, follow)


def tuning(run: Run) -> str:
    if run.result is None:
        return ""
    arm = run.result["real_arm"]
    scores = {(s["lr"], s["momentum"]): s["valid_accuracy"] for s in arm["tuning"]}
    lrs, momenta = (sorted({key[i] for key in scores}) for i in (0, 1))
    rows = (
        "<tr><th>lr \\ momentum</th>"
        + "".join(f'<th scope="col">{momentum:g}</th>' for momentum in momenta)
        + "</tr>"
    )
    for lr in lrs:
        rows += f'<tr><th scope="row">{lr:g}</th>'
        for momentum in momenta:
            score = scores[lr, momentum]
            best = (lr, momentum) == (arm["lr"], arm["momentum"])
            rows += f'<td style="--heat:{score:.3f}"{" class=best" if best else ""}>{percent(score)}</td>'
        rows += "</tr>"
    caption = (
        f"Real data do best with learning rate {arm['lr']:g} and momentum {arm['momentum']:g}, by "
        f"{arm['tuned_on']} accuracy"
    )
    caption += f" ({arm['tuning_images']:,} images)." if "tuning_images" in arm else "."
    sizes = f"learning rate {arm['lr']:g}, momentum {arm['momentum']:g}"
    note = (
        f"The tuned {sizes} is at the edge of the grid: a wider --evaluation.real-lrs or "
        "--evaluation.real-momenta may do better."
    )
    table = f'<div class="scroll" tabindex="0"><table class="heat">{rows}</table></div>'
    return page.card("Tuning of the real-data arm", table, caption, note if arm["at_edge_of_grid"] else "")


def confusion(run: Run) -> str:
    """Which classes the taught learners take for which, where the result has it."""
    if run.result is None or run.result["confusion"] is None:
        return ""
    r = run.result
    counts = np.array(r["confusion"])
    K = len(counts)
    names = run.curriculum.class_names if run.curriculum else tuple(map(str, range(K)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    mistakes = np.where(np.eye(K, dtype=bool), 0, shares)
    most = mistakes.max() or 1
    best = int(shares.diagonal().argmax())
    worst = int(shares.diagonal().argmin())
    true, seen = np.unravel_index(mistakes.argmax(), mistakes.shape)
    caption = (
        f"Of 100 test images of a class (row), how many taught learners read as each (column), all n = "
        f"{r['n_learners']} together, {counts.sum():,} readings. Read best is {names[best]} "
        f"({percent(shares[best, best])}), worst {names[worst]} ({percent(shares[worst, worst])})"
    )
    caption += (
        f"; the most frequent mistake is to read {names[true]} as {names[seen]} "
        f"({percent(mistakes[true, seen])})."
        if mistakes.any()
        else "; there is no mistake."
    )
    if K > MOST_CLASSES:
        return page.card("What is taken for what", "", f"{caption} {K} classes are too many for a table.")
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = f"<tr><td></td>{head}</tr>"
    for k, name in enumerate(names):
        rows += f'<tr><th scope="row">{escape(name)}</th>'
        for other in range(K):
            share = shares[k, other]
            shown = f"{100 * share:.1f}" if counts[k, other] else "<i>0</i>"
            colour = ' class="right"' if other == k else ""
            rows += f'<td style="--heat:{share if other == k else share / most:.3f}"{colour}>{shown}</td>'
        rows += "</tr>"
    long = " long" if max(map(len, names)) > 3 else ""
    table = f'<div class="scroll" tabindex="0"><table class="heat confusion{long}">{rows}</table></div>'
    return page.card("What is taken for what", table, caption)


def transfer(run: Run) -> str:
    """Ordinary networks that the teacher never met, where the result has them."""
    if run.result is None or not run.result.get("transfer"):
        return ""
    matrix = run.result["transfer"]
    networks = matrix["rows"]
    few, many = (f"{matrix[name]:,}" for name in ("inner_steps", "more_steps"))
    arms = {
        "taught": {name: row["taught"]["curriculum"] for name, row in networks.items()},
        f"real, {few} steps": {name: row["real"] for name, row in networks.items()},
        f"real, {many} steps": {name: row["real_more"] for name, row in networks.items()},
    }
    taught, real, _ = arms.values()
    better = [name for name in networks if taught[name]["mean"] > real[name]["mean"]]
    rows = "<tr><th>network</th>" + "".join(f'<th scope="col">{arm}</th>' for arm in arms) + "</tr>"
    for name, row in networks.items():
        rows += f'<tr><th scope="row">{escape(name)}: {escape(row["about"])}</th>'
        for arm, cells in arms.items():
            cell = cells[name]
            best = ' class="best"' if arm == "taught" and name in better else ""
            sizes = f" ({cell['optimizer']}, {cell['lr']:g})" if "optimizer" in cell else ""
            shown = f"{percent(cell['mean'])} ± {percent(cell['std'])}{sizes}"
            rows += f'<td style="--heat:{cell["mean"]:.3f}"{best}>{shown}</td>'
        rows += "</tr>"
    means = [percent(float(np.mean([cell["mean"] for cell in cells.values()]))) for cells in arms.values()]
    caption = (
        f"Test accuracy of torch modules that the teacher never met, after {few} steps: {means[0]} in the "
        f"mean, {means[1]} on real data with as many steps and {means[2]} with {many}. {len(better)} of "
        f"{len(networks)} (outlined) learn more from the curriculum than from as many real steps. Mean ± 1 "
        f"standard deviation over n = {matrix['n_learners']} fresh networks each; on real data SGD or Adam "
        "and its rate as they did best for that network on validation data."
    )
    table = f'<div class="scroll" tabindex="0"><table class="heat">{rows}</table></div>'
    return page.card("Networks never met", table, caption)
