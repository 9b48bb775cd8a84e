"""The pool: networks of a search space that a teacher meets again and again."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigtn.config import RunConfig
from minigtn.networks import spaces
from minigtn.networks.spaces.tables import read_table, truth_column
from minigtn.runs.seeds import Purpose, seed_for


class Pool(NamedTuple):
    """Architectures and, where they come from a published table, what it says of them."""

    archs: tuple[str, ...] = ()
    """Empty where learners are not of a search space, or each is another one."""
    accuracies: tuple[float, ...] = ()
    column: str = ""
    """The table's, of those accuracies."""


def pool_of(config: RunConfig) -> Pool:
    """The pool of a run; a function of its settings and of the table's content, in any order of rows.

    ValueError or OSError, in one sentence, for a table that is missing, is none of the space, or too small.
    """
    meta = config.meta
    if meta.sample_learners not in spaces.SPACES or not meta.sample_pool:
        return Pool()
    space = config.make_space()
    if not meta.rank_table:
        seeds = (seed_for(config.seed, Purpose.POOL, member) for member in range(meta.sample_pool))
        return Pool(tuple(space.sample(seed) for seed in seeds))
    table = Path(meta.rank_table).expanduser()
    accuracy = read_table(table, meta.rank_truth, space)
    if meta.sample_pool > len(accuracy):
        raise ValueError(
            f"a pool of {meta.sample_pool} networks cannot be drawn from the {len(accuracy)} of {table}; "
            "make meta.sample-pool smaller"
        )
    rng = np.random.default_rng(seed_for(config.seed, Purpose.POOL, 0))
    archs = tuple(rng.permutation(sorted(accuracy))[: meta.sample_pool].tolist())
    return Pool(archs, tuple(accuracy[arch] for arch in archs), truth_column(table, meta.rank_truth))
