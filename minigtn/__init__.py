"""minigtn: Generative Teaching Networks, readable, provable and fast. A training run is a differentiable function."""

from minigtn.adjoints import Adjoint, Checkpointed, Reversible, Unrolled
from minigtn.curriculum import Curriculum, load_curriculum, teach
from minigtn.fixed_point import FixedPointOverflow
from minigtn.optimisers import SGD, Adam, Optimiser, RMSprop
from minigtn.sgd import Readout, sgd

__all__ = [
    "SGD",
    "Adam",
    "Adjoint",
    "Checkpointed",
    "Curriculum",
    "FixedPointOverflow",
    "Optimiser",
    "RMSprop",
    "Readout",
    "Reversible",
    "Unrolled",
    "load_curriculum",
    "sgd",
    "teach",
]
