"""``minigtn nas search | rank | train``: thin commands over this package; flags come from its config
dataclasses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from minigtn import data
from minigtn.nas import final_training, ranking, search
from minigtn.nas.scores import EstimatorConfig
from minigtn.runs.devices import Device, choose

DatasetName = Annotated[str, tyro.conf.arg(metavar="{digits,mnist,fashion-mnist,cifar10}")]


@dataclass(frozen=True)
class _Common:
    dataset: DatasetName = "cifar10"
    """Real data; everything but digits is downloaded once, unless --data-dir or MINIGTN_DATA names a
    folder."""
    data_dir: Path | None = None
    """Folder with the data set's official files."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA if there is one."""
    threads: int = 1
    """CPU threads of every worker."""

    def load(self) -> data.Dataset:
        device = choose(self.device, self.threads)
        return data.load(self.dataset, self.data_dir).to(device)


def _flags(cls: type) -> Any:
    """A config whose settings are flags without a prefix."""
    return Annotated[cls, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class NasSearch(_Common):
    """Search a space on an Optuna study; any number of hosts share it, and the same command goes on with
    it."""

    search: _flags(search.SearchConfig) = dataclasses.field(default_factory=search.SearchConfig)  # type: ignore[valid-type]
    estimator_config: Annotated[EstimatorConfig, tyro.conf.arg(name="estimate")] = dataclasses.field(
        default_factory=EstimatorConfig
    )
    show: int = 10
    """Best architectures to print."""

    def run(self) -> None:
        found = search.search(self.search, self.estimator_config, self.load())
        for arch, score in found.ranking[: self.show]:
            print(f"{score:12.4f}  {arch}" + (f"  {found.reached[arch]}" if self.search.rungs else ""))
        for error, times in found.failures.items():
            print(f"{times} failed: {error}")


@dataclass(frozen=True)
class NasRank(_Common):
    """Score networks of a published table with every estimator; tables and figures say how well each ranks,
    and what it costs."""

    table: tyro.conf.Positional[Path] = tyro.MISSING
    """CSV file with the columns arch and accuracy (or --truth), made from a published benchmark:
    NAS-Bench-Macro (github.com/xiusu/NAS-Bench-Macro) or NAS-Bench-201 (github.com/D-X-Y/NAS-Bench-201)."""
    rank: _flags(ranking.RankConfig) = dataclasses.field(default_factory=ranking.RankConfig)  # type: ignore[valid-type]
    estimator_config: Annotated[EstimatorConfig, tyro.conf.arg(name="estimate")] = dataclasses.field(
        default_factory=EstimatorConfig
    )
    out: Path = Path("runs/rank")
    """Folder; what is scored there already is not scored again."""

    def run(self) -> None:
        ranking.rank(self.rank, self.estimator_config, self.load(), self.table, self.out)
        print(f"report: {self.out / 'report.html'}")


@dataclass(frozen=True, kw_only=True)
class NasTrain(_Common):
    """Train an architecture on real data, the paper's final training; the same command goes on from the last
    whole epoch."""

    final: _flags(final_training.FinalConfig)  # type: ignore[valid-type]
    out: Path = Path("runs/final")
    """The training's folder."""

    def run(self) -> None:
        result = final_training.final_training(self.final, self.load(), self.out)
        print(f"test accuracy {result['test_accuracy']:.2%} after {self.final.epochs} epochs; {self.out}")


COMMANDS: dict[str, type] = {"search": NasSearch, "rank": NasRank, "train": NasTrain}
