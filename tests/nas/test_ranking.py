"""Tables are read or refused; ranking resumes; the page stands alone."""

import itertools
import json
import math
from dataclasses import replace

import pytest

from minigtn import data
from minigtn.nas import ranking, report
from minigtn.nas.rank_figures import apart
from minigtn.nas.ranking import RankConfig, rank
from minigtn.nas.scores import EstimatorConfig
from minigtn.nas.tables import draw, read_scores
from minigtn.networks.spaces.tables import read_table
from minigtn.runs.claim import claimed
from tiny_space import TinySpace

DIGITS = data.load("digits")
ESTIMATORS = EstimatorConfig(
    curriculum="digits-10", steps=2, real_steps=3, batch_size=10, valid_images=50, valid_batch=50,
    probe_images=8,
    real_lrs=(0.1,), real_momenta=(0.5,), tuning_networks=1,
)  # fmt: skip
CONFIG = RankConfig(space="tiny", networks=6, bootstrap=20, repeats=2)


@pytest.fixture
def table(tmp_path):
    archs = ["".join(digits) for digits in itertools.product("012", repeat=4)]
    lines = [f"{arch},{50 + int(arch, 3) / 2},x" for arch in archs]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["arch,mean_acc,other", *lines]) + "\n")
    return path


def run(config, table, folder, estimators=ESTIMATORS):
    return rank(config, estimators, DIGITS, table, folder, space=TinySpace(), bar=False)


# ---- the table ----


def test_fewer_networks_are_the_first_of_more(table):
    truth = read_table(table)
    assert truth["0001"] == 50.5
    assert draw(truth, 5, 0) == draw(truth, 0, 0)[:5] != draw(truth, 5, 1)
    assert sorted(draw(truth, 0, 0)) == sorted(truth)
    with pytest.raises(ValueError, match="82 networks were asked for, but the table has 81"):
        draw(truth, 82, 0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("arch,accuracy\n0,1\n1,x\n", "line 3: accuracy 'x' is no number"),
        ("arch,accuracy\n0,1\n0,2\n", "line 3: 0 stands there twice"),
        (
            "arch,acc\n0,1\n",
            "needs a column arch and a column one of mean_acc, cifar10_test, accuracy, each once and "
            "separated by commas, but it has arch, acc",
        ),
        ("", "but it has none"),
        ("arch;accuracy\n0;1\n", "separated by commas, but it has arch;accuracy"),
        ("arch,accuracy,accuracy\n0,1,2\n", "each once"),
        ("arch,accuracy\n", "has a header and no rows"),
        ("arch,accuracy\n0,93,5\n", "line 2: 3 values for 2 columns; write each number with a decimal point"),
        ("arch,accuracy\n0\n", "line 2: 1 values for 2 columns"),
        ("arch,accuracy\n0,9_1\n", "accuracy '9_1' is no number"),
        ('arch,accuracy\n"0,1\n', "is no CSV text in UTF-8 or UTF-16"),
        ("arch,accuracy\n0," + 200_000 * "1" + "\n", "is no CSV text"),
    ],
)
def test_a_bad_table_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence) as error:
        read_table(tmp_path / "bad.csv")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_table_as_spreadsheets_save_it(table, tmp_path, encoding, end):
    text = table.read_text().replace("other", "Größe").replace("\n", end)
    content = text.encode(encoding) if " " not in encoding else ("\ufeff" + text).encode("utf-16-le")
    (tmp_path / "saved.csv").write_bytes(content)
    if encoding == "latin-1":
        with pytest.raises(ValueError, match=r"is no CSV text in UTF-8 or UTF-16 .*; save it as CSV again"):
            read_table(tmp_path / "saved.csv")
    else:
        assert read_table(tmp_path / "saved.csv") == read_table(table)


def test_spaces_and_empty_lines_do_no_harm(tmp_path):
    (tmp_path / "a.csv").write_text(" arch , accuracy\n\n 0120 , 93.5 \n\n")
    assert read_table(tmp_path / "a.csv", space=TinySpace()) == {"0120": 93.5}


def test_a_missing_table_says_where_tables_come_from(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no table .*nothing.csv; write one as CSV with the col"
    ) as e:
        read_table(tmp_path / "nothing.csv")
    assert "github.com/xiusu/NAS-Bench-Macro" in str(e.value)
    with pytest.raises(OSError, match=r"cannot be read \(Is a directory\); give a CSV file"):
        read_table(tmp_path)


@pytest.mark.parametrize("bad", ["120", "1.20E+02", "012x", ""])
def test_architectures_that_are_none_are_refused_before_anything_is_tuned(table, tmp_path, monkeypatch, bad):
    """A spreadsheet makes 120 of 0120."""
    text = table.read_text()
    table.write_text(text.replace("\n0120,", f"\n{bad},"))
    monkeypatch.setattr("minigtn.nas.scores.tune", lambda *_: pytest.fail("tuned"))
    with pytest.raises(ValueError, match=r"table.csv, line 17: not an architecture") as error:
        run(CONFIG, table, tmp_path / "run")
    assert ("dropped its leading zeros: import the column as text" in str(error.value)) == (bad == "120")
    assert not (tmp_path / "run").exists()


# ---- ranking ----


def test_rank_stopped_resumed_and_extended_is_the_same(table, tmp_path, monkeypatch):
    monkeypatch.setattr("minigtn.nas.report.write", lambda folder: folder)  # which has a test of its own
    whole = run(CONFIG, table, tmp_path / "whole")
    columns = [f"gtn-2-{score}" for score in ("loss", "accuracy", "tse")]
    assert list(whole["columns"])[::3] == [
        "gtn-2-loss", "gtn-1-loss", "real-1-loss", "real-2-loss", "real-3-loss", "real-constant-3-loss",
        "real-constant-2-loss", "real-constant-1-loss", "params", "naswot",
    ]  # fmt: skip
    assert list(whole["columns"])[:3] == columns
    assert list(whole["columns"]["gtn-2-tse"]["against"]) == [
        "flops", "real-2-tse", "real-3-tse", "real-constant-2-tse", "real-constant-3-tse"
    ]  # fmt: skip
    assert all(
        value["value"] is None or math.isfinite(value["value"])
        for c in whole["columns"].values()
        for value in c["all"].values()
    )

    from minigtn.nas.trainings import RealTraining

    folder = tmp_path / "stopped"
    calls = []
    score = RealTraining.score

    def interrupted(self, network):
        calls.append(network.arch)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return score(self, network)

    monkeypatch.setattr(RealTraining, "score", interrupted)
    few = replace(CONFIG, networks=4, estimators=("real-constant", "params"), repeats=1)
    with pytest.raises(KeyboardInterrupt):
        run(few, table, folder)
    kept = (folder / "scores.jsonl").read_text()
    with (folder / "scores.jsonl").open("a") as file:
        file.write('{"arch": "00')  # torn by a kill
    run(few, table, folder)
    assert (folder / "scores.jsonl").read_text().startswith(kept)
    # after the one that tuned: the interrupted one twice
    assert (len(calls[1:]), len(set(calls[1:]))) == (5, 4)
    run(CONFIG, table, folder)

    def values(where):
        rows = read_scores(where, repeats=CONFIG.repeats)
        return sorted((row["arch"], sorted(row["scores"].items())) for row in rows)

    assert values(folder) == values(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"was made with other settings \(seed: 0 -> 1\)"):
        run(replace(CONFIG, seed=1), table, folder)


def test_the_page_stands_alone_and_can_be_drawn_again(table, tmp_path):
    folder = tmp_path / "run"
    settings = replace(
        CONFIG, estimators=("gtn", "real", "params", "flops"), vote=("params", "flops"), predictor_networks=3
    )
    result = run(settings, table, folder)
    assert result["predictor"]["target"] == "real-3-loss"
    assert set(result["predictor"]["weights"]["predictor"]) == {
        "params", "flops", "gtn-2-loss", "gtn-2-accuracy", "gtn-2-tse"
    }  # fmt: skip
    assert len(result["replay"]["budgets"]) == 4
    page = (folder / "report.html").read_text()
    for word in ("<script", "http://", "https://", "@import"):
        assert word not in page
    for word in (
        "real-3-loss", "flops", "vote", "On the better half, n = 3", "n = 6", "s of tuning",
        "n = 2 initial weights",
        "gtn-2-loss \N{MINUS SIGN} real-2-loss", "minus their validation loss",
        "predictor \N{MINUS SIGN} predictor-free", "ridge regression on real-3-loss of 3 networks",
        "Searches within a budget", "taught, then real",
    ):  # fmt: skip
        assert word in page
    # light and dark: steps and seconds for both parts, scatter plots of the two trainings' ends and of sizes
    assert page.count("data:image/svg+xml") == 2 * (4 + 4)
    (folder / "report.html").unlink()
    assert report.write(folder).read_text() == page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"networks": -1}, "networks must be at least 0"),
        ({"bootstrap": 0}, "bootstrap must be at least 1"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"estimators": ("flops", "flops")}, "each once"),
        ({"predictor_networks": 2}, "not fitted on 2 networks; give predictor-networks at least 3, or 0"),
        ({"budgets": (10.0, -1.0)}, "budgets must be positive numbers of seconds"),
        ({"searches": -1}, "searches must be at least 0"),
    ],
)
def test_bad_settings_are_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(CONFIG, **changes)


def test_a_curriculum_that_is_missing_is_refused_before_the_folder_is_begun(table, tmp_path, monkeypatch):
    """Else the right command would be refused after the wrong one: other settings."""
    monkeypatch.setattr("minigtn.nas.scores.tune", lambda *_: pytest.fail("tuned"))
    forgot = replace(ESTIMATORS, curriculum="")
    with pytest.raises(ValueError, match="gtn and gtn-real need a curriculum"):
        run(replace(CONFIG, estimators=("real", "gtn")), table, tmp_path / "run", forgot)
    assert not (tmp_path / "run").exists()


def test_scores_of_unknown_settings_and_damaged_ones_are_refused(table, tmp_path, monkeypatch):
    monkeypatch.setattr("minigtn.nas.report.write", lambda folder: folder)
    folder = tmp_path / "run"
    few = replace(CONFIG, estimators=("params",), vote=())
    run(few, table, folder)
    scores = (folder / "scores.jsonl").read_text()
    (folder / "scores.jsonl").write_text(scores.replace('"scores"', '"score"', 1))
    with pytest.raises(ValueError, match=r"scores.jsonl, line 1, is damaged \(no scores of a network\)"):
        run(few, table, folder)
    (folder / "scores.jsonl").write_text("{" + scores)
    with pytest.raises(ValueError, match=r"scores.jsonl, line 1, is damaged"):
        run(few, table, folder)
    (folder / "config.json").unlink()
    with pytest.raises(
        ValueError, match=r"holds scores.jsonl.* but no config.json.*; delete them, or use another"
    ):
        run(few, table, folder)
    with claimed(folder), pytest.raises(ValueError, match="another process is at work in"):
        run(few, table, folder)


def test_meta_training_is_repaid_by_what_real_trainings_take_longer(tmp_path):
    seconds = {
        "gtn-4-loss": 1.0,
        "gtn-2-loss": 0.5,
        "real-2-loss": 0.4,
        "real-4-loss": 0.9,
        "real-64-loss": 9.0,
    }
    columns = {name: {"seconds": {"mean": mean}} for name, mean in seconds.items()}
    result = {"columns": columns, "score": "loss"}
    assert ranking._repaid((str(tmp_path),), result) == {}  # no result of a run
    (tmp_path / "result.json").write_text('{"seconds": 100.0}')
    about = ranking._repaid((str(tmp_path),), result)["meta_training"]
    assert about == {"seconds": 100.0, "repaid": {"real-4-loss": None, "real-64-loss": 13}}
    twice = ranking._repaid((str(tmp_path), str(tmp_path)), result)["meta_training"]
    assert twice == {"seconds": 200.0, "repaid": {"real-4-loss": None, "real-64-loss": 25}}
    words = report._repaid(about)
    assert "took 100 s; beside real-4-loss never, real-64-loss after 13 networks that is repaid" in words
    assert ranking._repaid((str(tmp_path),), {"columns": {"flops": {}}, "score": "loss"}) == {}
    assert ranking._repaid((), result) == {}


def test_the_page_says_of_how_many_curricula_a_reading_is_the_mean(table, tmp_path):
    settings = replace(ESTIMATORS, more_curricula=(ESTIMATORS.curriculum,))
    one = replace(CONFIG, estimators=("gtn",), vote=(), bootstrap=5)
    rank(one, settings, DIGITS, table, tmp_path / "two", TinySpace(), bar=False)
    rank(one, ESTIMATORS, DIGITS, table, tmp_path / "one", TinySpace(), bar=False)
    said = "mean of a training by each of 2 curricula"
    assert said in (tmp_path / "two" / "report.html").read_text()
    assert "by each of" not in (tmp_path / "one" / "report.html").read_text()


def test_without_what_a_predictor_takes_it_is_said(table, tmp_path):
    result = run(replace(CONFIG, estimators=("params",), vote=()), table, tmp_path / "run")
    assert "replay" not in result
    assert "There is no predictor: it takes free scores" in (tmp_path / "run" / "report.html").read_text()


def test_scores_over_repeats_are_means_and_one_that_is_not_finite_spoils_them(tmp_path):
    lines = [
        {"arch": "0", "repeat": r, "truth": 1.0, "scores": {"a": a, "b": b}, "seconds": {"a": 1.0, "b": 0.5}}
        for r, a, b in ((0, 1.0, 1.0), (1, 4.0, None), (2, 100.0, 3.0))
    ]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = read_scores(tmp_path, repeats=2)
    assert row["scores"] == {"a": 2.5, "b": None}
    assert row["seconds"] == {"a": 2.0, "b": 1.0}


def test_a_folder_of_before_there_were_curves_is_refused_in_one_sentence(table, tmp_path):
    old = {"space": "tiny", "networks": 6, "seed": 0, "curriculum": "digits-10", "steps": 2}
    (tmp_path / "config.json").write_text(json.dumps({"config": old}))
    (tmp_path / "scores.jsonl").write_text(
        '{"arch": "0000", "truth": 50, "scores": {"real-2": 0.1}, "seconds": {"real-2": 1.0}}\n'
    )
    with pytest.raises(ValueError, match=r"was made with other settings \(.*score: None -> loss; .*another"):
        run(CONFIG, table, tmp_path)


def test_names_beside_a_figure_are_moved_apart_as_little_as_it_takes():
    assert apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.6, 0.5, 0.4])
    assert apart([0.9, 0.5, 0.45, -0.2], 0.1) == pytest.approx([0.9, 0.525, 0.425, -0.2])
    crowded = [0.53, 0.52, 0.52, 0.51, 0.3, 0.29]
    moved = apart(crowded, 0.05)
    assert all(a - b > 0.05 - 1e-9 for a, b in itertools.pairwise(moved))
    assert sum(moved) == pytest.approx(sum(crowded))
    assert apart([], 0.1) == []
