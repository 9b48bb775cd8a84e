"""minigtn: Generative Teaching Networks, readable, provable and fast. A training run is a differentiable
function.

All that users need is here; where it lives behind this face may change.
"""

from importlib.metadata import PackageNotFoundError, version

from minigtn import agents, data
from minigtn.config import PRESETS, EvaluationConfig, MetaConfig, RunConfig
from minigtn.inner.adjoints import Adjoint, Checkpointed, Reversible, Unrolled
from minigtn.inner.fixed_point import FixedPointOverflow
from minigtn.inner.memory import memory_bytes, saved_bytes
from minigtn.inner.optimizers import SGD, Adam, MuAdam, Optimizer, RMSprop
from minigtn.inner.training import Readout, sgd
from minigtn.nas.candidate import Candidate
from minigtn.nas.trainings import RealTraining, TaughtTraining
from minigtn.nas.zero_cost import ZeroCost
from minigtn.networks import spaces
from minigtn.networks.layers import cross_entropy
from minigtn.networks.learners import Learner, LearnerConfig
from minigtn.outer.evaluate import accuracy, final_evaluation, real_curves, taught_curves
from minigtn.outer.loop import MetaTraining
from minigtn.outer.run import train
from minigtn.pages.export import export
from minigtn.pages.run_page import write as write_report
from minigtn.teaching.curriculum import Curriculum, TrainingData, load_curriculum
from minigtn.teaching.teach import Taught, teach
from minigtn.teaching.teacher import VARIANTS, Teacher, TeacherConfig, variant

try:
    __version__ = version("minigtn")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"

__all__ = [
    "PRESETS",
    "SGD",
    "VARIANTS",
    "Adam",
    "Adjoint",
    "Candidate",
    "Checkpointed",
    "Curriculum",
    "EvaluationConfig",
    "FixedPointOverflow",
    "Learner",
    "LearnerConfig",
    "MetaConfig",
    "MetaTraining",
    "MuAdam",
    "Optimizer",
    "RMSprop",
    "Readout",
    "RealTraining",
    "Reversible",
    "RunConfig",
    "Taught",
    "TaughtTraining",
    "Teacher",
    "TeacherConfig",
    "TrainingData",
    "Unrolled",
    "ZeroCost",
    "__version__",
    "accuracy",
    "agents",
    "cross_entropy",
    "data",
    "export",
    "final_evaluation",
    "load_curriculum",
    "memory_bytes",
    "real_curves",
    "saved_bytes",
    "sgd",
    "spaces",
    "taught_curves",
    "teach",
    "train",
    "variant",
    "write_report",
]
