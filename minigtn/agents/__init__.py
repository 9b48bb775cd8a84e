"""Teaching agents: curricula of (state, action distribution) batches, judged by the return of the policies
that they teach.

    result = training.train(config, Path("runs/cartpole"))    # minigtn rl train
    minigtn.teach(policy, minigtn.load_curriculum("cartpole-10"))

Optional packages (gymnasium, stable-baselines3) come with ``pip install 'minigtn[rl]'`` and are imported
where they are needed.
"""

from minigtn.agents import judging
from minigtn.agents.config import AgentConfig, JudgeConfig, OuterConfig
from minigtn.agents.environments import Acrobot, CartPole, Environment, Pendulum
from minigtn.agents.maps import PLANES, probabilities
from minigtn.agents.policies import Policy, PolicyConfig, SumOfImitations
from minigtn.agents.rollout import Gymnasium, Simulation, play, sampler, side_by_side
from minigtn.agents.surrogate import weights_at_readings
from minigtn.agents.teacher import StatesConfig, StateTeacher
from minigtn.agents.training import AgentTraining

__all__ = [
    "PLANES",
    "Acrobot",
    "AgentConfig",
    "AgentTraining",
    "CartPole",
    "Environment",
    "Gymnasium",
    "JudgeConfig",
    "OuterConfig",
    "Pendulum",
    "Policy",
    "PolicyConfig",
    "Simulation",
    "StateTeacher",
    "StatesConfig",
    "SumOfImitations",
    "judging",
    "play",
    "probabilities",
    "sampler",
    "side_by_side",
    "weights_at_readings",
]
