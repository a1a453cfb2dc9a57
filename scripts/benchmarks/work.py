"""What scripts/bench.py measures: for each agent the work that its peer does too, said in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Work:
    """One agent's work. All that costs time is said, so that a change of the agent's defaults is no change of it."""

    num_envs: int
    num_steps: int
    """Of a rollout; 1 for an agent that learns from a replay after each step."""
    optimizers: tuple[str, ...]
    """That it can be measured with; the first unless a flag says otherwise."""
    settings: dict[str, Any]
    """Of the agent's config."""
    differences: str
    """In what ours differs from the peer's."""
    minibatches: int = 1
    """Of a pass over a rollout."""
    env: str = "CartPole-v1"
    peers: tuple[str, ...] = ("sb3",)
    """That do the same work."""
    off_policy: bool = False
    gradients: tuple[str, ...] = ()
    """Of `actor_gradient`: one measurement for each unless a flag says otherwise; () for an agent without it."""
    needed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further settings, without which such a gradient does not learn."""

    def config(self, job: dict[str, Any], name: str) -> dict[str, Any]:
        """The agent's settings for the measurement `name` of a job."""
        if self.off_policy:
            return {**self.settings, "normalize_obs": job["normalize_obs"]}
        rows = job["num_envs"] * job["num_steps"]
        own = {"num_steps": job["num_steps"], "batch_size": max(1, rows // self.minibatches)}
        if self.gradients:
            own |= {"actor_gradient": name}
        if len(self.optimizers) > 1:
            own |= {"optimizer": job["optimizer"]}
        return {**self.settings, **own, "normalize_obs": job["normalize_obs"], **self.needed.get(name, {})}

    @property
    def same(self) -> str:
        """What is the same on both sides."""
        return SAME_OFF_POLICY if self.off_policy else SAME


NETWORKS = {"hidden": (64, 64), "activation": "tanh", "layer_norm": False, "head": "regression"}
SAME = (
    "The same on both sides: environment id, number of environments, rollout length, minibatches, networks, optimiser, "
    "learning rate, gamma, lambda, clipping, entropy bonus, episode statistics, TensorBoard at the same intervals, one "
    "process each, nothing displayed."
)
SAME_OFF_POLICY = (
    "The same on both sides: environment id, one environment, a batch and an update a step, the replay's size, "
    "networks, learning rates, gamma, tau, noise, episode statistics, TensorBoard at the same intervals, one process "
    "each, nothing displayed; nothing is measured before learning starts."
)
COUNTED = (
    "episodes are counted in the loop, not by a Monitor around each environment; the environments' back end, as "
    "printed (--env-backend sync steps them one by one)"
)
# One update a step, as Stable-Baselines3 and SBX ship.
REPLAYED = {
    "gamma": 0.99,
    "n_step": 1,
    "buffer_size": 1_000_000,
    "hindsight": 0,
    "per_alpha": 0.0,
    "per_beta": 0.4,
    "batch_size": 256,
    "learning_starts": 1_000,
    "update_ratio": 1.0,
    "actor_lr": 3e-4,
    "critic_lr": 3e-4,
    "tau": 0.005,
    "n_critics": 2,
    "max_grad_norm": 0.0,
    "decay_steps": 0,
    "l2": 0.0,
    "l1": 0.0,
    "dropout": 0.0,
    "hidden": (256, 256),
    "activation": "relu",
    "layer_norm": False,
    "init": "uniform",
}
WORK = {
    # The work of Stable-Baselines3's A2C as it ships: one pass of C over the whole rollout, plain regression.
    "a2c": Work(
        num_envs=8,
        num_steps=5,
        optimizers=("rmsprop", "adam"),
        settings={
            **NETWORKS,
            "dropout": 0.0,
            "n_critics": 1,
            "actor_lr": 7e-4,
            "critic_lr": 7e-4,
            "gamma": 0.99,
            "gae_lambda": 1.0,
            "ent_coef": 0.0,
            "max_grad_norm": 0.5,
            "decay_steps": 0,
            "l2": 0.0,
            "l1": 0.0,
            "critic_passes": 1,
            "critic_warmup": 0,
            "action_samples": 4,
        },
        gradients=("score", "pathwise"),
        # An actor that follows C alone must not start before C knows anything, or it stays at a return of 9: C learns
        # alone for the first 2,000 steps, which are not measured, and a bonus keeps the policy from growing certain too
        # early.
        needed={"pathwise": {"critic_warmup": 2000, "ent_coef": 0.01}},
        differences="Ours differs in: actor and C have an optimiser and a clipped gradient each, not one of both; "
        f"advantages are divided by their running size; {COUNTED}; pathwise has an entropy bonus of 0.01, and its C "
        "learns alone for 2,000 steps, not measured.",
    ),
    # Stable-Baselines3's PPO as it ships, but for the shape of the work: environments, rollout, passes and minibatches
    # as CleanRL and purejaxrl have them for CartPole-v1.
    "ppo": Work(
        num_envs=4,
        num_steps=128,
        optimizers=("adam",),
        settings={
            **NETWORKS,
            "epochs": 4,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "learning_rate": 3e-4,
            "clip_range": 0.2,
            "clip_range_vf": 0.0,
            "vf_coef": 0.5,
            "ent_coef": 0.0,
            "target_kl": 0.0,
            "max_grad_norm": 0.5,
            "decay_steps": 0,
            "l2": 0.0,
            "l1": 0.0,
        },
        minibatches=4,
        differences="Ours differs in: C's targets are divided by their size; advantages are normalised once a "
        f"rollout, not in each minibatch; {COUNTED}.",
    ),
    "sac": Work(
        num_envs=1,
        num_steps=1,
        optimizers=("adam",),
        settings={**REPLAYED, "alpha": 1.0, "alpha_lr": 3e-4, "entropy_target": 1.0},
        differences=f"Ours differs in: lengths of gradients are logged; {COUNTED}.",
        env="HalfCheetah-v5",
        peers=("sb3", "sbx"),
        off_policy=True,
    ),
    "td3": Work(
        num_envs=1,
        num_steps=1,
        optimizers=("adam",),
        settings={
            **REPLAYED,
            "policy_delay": 2,
            "exploration_noise": 0.1,
            "target_policy_noise": 0.2,
            "target_noise_clip": 0.5,
        },
        differences=f"Ours differs in: lengths of gradients are logged; {COUNTED}.",
        env="HalfCheetah-v5",
        peers=("sb3", "sbx"),
        off_policy=True,
    ),
}
