"""minigtn: Generative Teaching Networks, readable, provable and fast. A training run is a differentiable function."""

from minigtn.adjoints import Adjoint, Checkpointed, Reversible, Unrolled
from minigtn.curriculum import Curriculum, load_curriculum, teach
from minigtn.fixed_point import FixedPointOverflow
from minigtn.sgd import Readout, sgd

__all__ = [
    "Adjoint",
    "Checkpointed",
    "Curriculum",
    "FixedPointOverflow",
    "Readout",
    "Reversible",
    "Unrolled",
    "load_curriculum",
    "sgd",
    "teach",
]
