"""A seed for every random thing, from the run's seed alone: nothing random has a state that a resumed run
would need."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a seed is for. The numbers are part of every result: never reuse one."""

    TEACHER = 0
    LEARNER = 1
    REAL_BATCH = 2
    VALIDATION = 3
    TUNING = 4
    TEST = 5
    CURRICULUM = 6
    POOL = 7
    OWN = 8
    TARGET = 9
    SCORING = 101
    TUNED_NETWORKS = 102
    PROPOSAL = 103
    RANKED = 104
    BOOTSTRAP = 105
    REPEATED = 106
    FITTED = 107
    REPLAY = 108
    FINAL_WEIGHTS = 120
    FINAL_EPOCH = 121


def seed_for(run_seed: int, purpose: int, index: int) -> int:
    """A seed of its own for each purpose and index, so that a step's randomness follows from its number
    alone, and no learner of the evaluation was ever seen in meta-training."""
    sequence = np.random.SeedSequence((run_seed, int(purpose), index))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
