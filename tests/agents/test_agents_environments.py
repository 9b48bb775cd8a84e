"""The environments in torch against gymnasium, step by step."""

from __future__ import annotations

import pytest
import torch

from minigtn.agents.environments import ENVIRONMENTS, Acrobot, CartPole, Environment, Pendulum, make
from minigtn.agents.rollout import Gymnasium, Simulation, greedy, play, sampler

gymnasium = pytest.importorskip("gymnasium", reason="comes with minigtn[rl]")

OTHERS = [
    CartPole(),
    CartPole(gravity=3.7, length=1.2, masspole=0.4, masscart=0.7, force_mag=6.0),
    Acrobot(),
    Acrobot(LINK_LENGTH_1=1.4, LINK_MASS_1=0.8, LINK_MASS_2=1.3),
    Pendulum(),
    Pendulum(g=5.0, m=1.5, l=0.7),
]


def some_states(env: Environment, n: int) -> torch.Tensor:
    """States all over the place, in float64: far more than an episode meets."""
    scale = {CartPole: (3.0, 2.0, 0.3, 3.0), Acrobot: (3.0, 3.0, 8.0, 20.0), Pendulum: (3.1, 7.9)}[type(env)]
    return (2 * torch.rand(n, len(scale), dtype=torch.float64) - 1) * torch.tensor(scale, dtype=torch.float64)


def set_state(env: object, state: torch.Tensor) -> None:
    inner = env.unwrapped  # type: ignore[attr-defined]
    inner.state = state.numpy().copy()
    inner.steps_beyond_terminated = None


@pytest.mark.parametrize("env", OTHERS, ids=str)
def test_every_step_is_gymnasiums(env: Environment) -> None:
    states = some_states(env, 400)
    actions = torch.randint(env.n_actions, (400,))
    after, reward, terminated = env.step(states, actions)
    observed = env.observe(after)
    real = env.gymnasium()
    real.reset(seed=0)
    for i, state in enumerate(states):
        set_state(real, state)
        expected, real_reward, over, _, _ = real.unwrapped.step(_action(env, int(actions[i])))
        torch.testing.assert_close(observed[i].float(), torch.as_tensor(expected), rtol=2e-6, atol=2e-6)
        state_now = torch.as_tensor(real.unwrapped.state, dtype=torch.float64)
        torch.testing.assert_close(after[i], state_now, rtol=1e-12, atol=1e-12)
        assert reward[i].item() == pytest.approx(float(real_reward), abs=1e-12)
        assert bool(terminated[i]) == over
    real.close()
    if not isinstance(env, Pendulum):
        assert 20 < terminated.sum() < 380  # both kinds were met


def _action(env: Environment, number: int) -> object:
    return [env.TORQUES[number]] if isinstance(env, Pendulum) else number


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_first_states_are_drawn_like_gymnasiums(name: str) -> None:
    env = make(name)
    real = env.gymnasium()
    theirs = torch.stack([torch.as_tensor(real.reset(seed=i)[0]) for i in range(500)])
    ours = env.observe(env.reset(2000, torch.Generator().manual_seed(1)))
    assert ours.shape == (2000, len(env.features)) == (2000, len(env.scale))
    torch.testing.assert_close(ours.amin(0), theirs.amin(0), rtol=0.05, atol=0.01)
    torch.testing.assert_close(ours.amax(0), theirs.amax(0), rtol=0.05, atol=0.01)
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.1, atol=0.003)
    assert real.action_space.n == env.n_actions == len(env.actions)
    assert real.spec.max_episode_steps == env.limit
    real.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_whole_episodes_agree(name: str) -> None:
    """The same rule plays in gymnasium and, from the same first states, in torch: the same episodes."""
    env = make(name)

    def rule(observation: torch.Tensor) -> torch.Tensor:
        score = observation.float() @ torch.linspace(
            1.0, 2.0, observation.shape[1]
        )  # gymnasium's precision, so that ties are the same
        return torch.stack([-score, *[torch.full_like(score, -0.05)] * (env.n_actions - 2), score], -1)

    running = Gymnasium(env.gymnasium, 6, seed=5)
    twin = Simulation(env, 6, torch.Generator())
    states = [_state_of(one) for one in running.vector.envs]
    twin.state = torch.stack(states)
    twin.observation = env.observe(twin.state)
    theirs = play(
        running, greedy(rule), 60
    )  # a rule of this kind is chaotic: later on the last digit decides
    ours = play(twin, greedy(rule), 60)
    running.close()
    assert ours.actions.tolist() == theirs.actions.tolist()
    assert name == "Acrobot-v1" or len(ours.actions.unique()) > 1
    torch.testing.assert_close(ours.observations.float(), theirs.observations, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.rewards.float(), theirs.rewards, rtol=1e-4, atol=1e-4)


def _state_of(env: object) -> torch.Tensor:
    return torch.as_tensor(env.unwrapped.state, dtype=torch.float64)  # type: ignore[attr-defined]


def test_other_physics_are_other_episodes() -> None:
    state = CartPole().reset(5, torch.Generator().manual_seed(0))
    push = torch.ones(5, dtype=torch.long)
    assert not CartPole(length=1.0).step(state, push)[0].allclose(CartPole().step(state, push)[0])


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(
        ValueError,
        match="there is no environment 'LunarLander-v3' in torch; there are CartPole-v1, Acrobot-v1",
    ):
        make("LunarLander-v3")


def test_nothing_counts_after_the_end() -> None:
    """Always pushing right: every episode ends within a dozen steps, and its return is its length."""
    env = CartPole()
    episodes = play(
        Simulation(env, 50, torch.Generator().manual_seed(0)),
        lambda o: torch.ones(len(o), dtype=torch.long),
        env.limit,
    )
    lengths = episodes.alive.sum(0)
    assert episodes.terminated.all()
    assert len(set(lengths.tolist())) > 1
    assert 8 <= lengths.min() < lengths.max() == len(episodes.rewards) <= 12
    assert episodes.returns().tolist() == lengths.tolist()
    assert episodes.steps() == lengths.sum()
    for i, length in enumerate(lengths.int().tolist()):
        assert episodes.alive[:length, i].all()
        assert not episodes.alive[length:, i].any()


def test_an_episode_that_is_cut_off_is_not_terminated() -> None:
    env = Pendulum()
    episodes = play(
        Simulation(env, 3, torch.Generator().manual_seed(0)),
        lambda o: torch.zeros(len(o), dtype=torch.long),
        env.limit,
    )
    assert len(episodes.rewards) == 200
    assert episodes.alive.all()
    assert not episodes.terminated.any()


def test_sampled_actions_have_the_distribution_of_the_logits() -> None:
    p = torch.tensor([0.1, 0.6, 0.3])
    act = sampler(lambda o: p.log().expand(len(o), 3), torch.Generator().manual_seed(0))
    drawn = torch.cat([act(torch.zeros(1000, 1)) for _ in range(45)])
    torch.testing.assert_close(drawn.bincount(minlength=3) / len(drawn), p, rtol=0, atol=0.01)
    assert drawn[:1000].ne(drawn[1000:2000]).any()
