"""The tasks of `scripts/bench.py threshold`, and how rl-baselines3-zoo sets Stable-Baselines3's agents for them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Zoo(NamedTuple):
    """Settings of a Stable-Baselines3 agent, from rl-baselines3-zoo's hyperparams/*.yml (commits c6c209e and 208b6fd).

    What is not said there is as Stable-Baselines3 ships it.
    """

    agent: str
    num_envs: int
    steps: int
    """The zoo's n_timesteps, over which lin_x falls from x to 0; where nothing falls, a run may go on beyond it."""
    settings: dict[str, Any]
    normalize: bool = False
    """Observations and rewards, by VecNormalize with the agent's gamma."""


class Task(NamedTuple):
    """What counts as solved, and what our runs and the peer's get to solve it."""

    threshold: float
    steps: int
    peers: tuple[Zoo, ...]


TASKS = {
    "CartPole-v1": Task(
        475.0,
        100_000,
        (
            Zoo(
                "PPO",
                num_envs=8,
                steps=100_000,
                settings={
                    "n_steps": 32,
                    "batch_size": 256,
                    "gae_lambda": 0.8,
                    "gamma": 0.98,
                    "n_epochs": 20,
                    "ent_coef": 0.0,
                    "learning_rate": "lin_0.001",
                    "clip_range": "lin_0.2",
                },
            ),
            Zoo("A2C", num_envs=8, steps=500_000, settings={"ent_coef": 0.0}),
        ),
    ),
    "Acrobot-v1": Task(
        -90.0,
        200_000,
        (
            Zoo(
                "PPO",
                num_envs=16,
                steps=1_000_000,
                settings={"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
                normalize=True,
            ),
        ),
    ),
    "Pendulum-v1": Task(
        -200.0,
        300_000,
        (
            Zoo(
                "PPO",
                num_envs=4,
                steps=300_000,  # the zoo's 100,000 are too few for this threshold
                settings={
                    "n_steps": 1024,
                    "gae_lambda": 0.95,
                    "gamma": 0.9,
                    "n_epochs": 10,
                    "ent_coef": 0.0,
                    "learning_rate": 1e-3,
                    "clip_range": 0.2,
                    "use_sde": True,
                    "sde_sample_freq": 4,
                },
            ),
        ),
    ),
}
