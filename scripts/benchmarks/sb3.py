"""The peer's side of scripts/bench.py: the same work by Stable-Baselines3 or SBX, as its users would write it.

It runs in the interpreter that Stable-Baselines3 is installed in, so it imports nothing of ours but a file of the
standard library's. Settings come as JSON, the only argument; figures are lines of JSON printed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from typing import Any

from turns import Turns  # type: ignore[import-not-found] # lies beside this file

COMPILED = 100  # steps after learning starts, in which SBX compiles its update
sys.path[0:1] = []  # the folder of this file: its neighbours' names must not hide a library's


def main() -> int:
    """Does what the settings say and prints the figures."""
    job = json.loads(sys.argv[1])
    if job["peer"] == "sbx":  # XLA reads them when it is loaded; torch is only beside it
        os.environ["NPROC"] = str(job["threads"])
        os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(job['threads'] > 1).lower()}"
    import torch

    torch.set_num_threads(job["threads"])
    if (figures := {"learn": _learn, "env": _env_alone}[job["mode"]](job)) is not None:
        print(json.dumps(figures), flush=True)
    return 0


def _learn(job: dict[str, Any]) -> dict[str, float] | None:
    """Trains: in turns with the other side, or `total` steps and then an evaluation."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    env = make_vec_env(job["env"], n_envs=job["num_envs"], seed=job["seed"])
    folder = tempfile.TemporaryDirectory()
    model = {"a2c": _a2c, "ppo": _ppo, "sac": _off_policy, "td3": _off_policy}[job["agent"]](job, env, folder.name)
    turns = Turns(job["warmup"], job["seconds"]) if job["seconds"] else None
    off_policy = job["agent"] in ("sac", "td3")
    cold = job["config"]["learning_starts"] + COMPILED if off_policy else 0

    class TakesTurns(BaseCallback):  # type: ignore[misc]
        """A turn begins and ends where a rollout begins: it holds whole ones."""

        go_on = True

        def _on_rollout_start(self) -> None:
            self.go_on = turns is None or self.num_timesteps < cold or turns(self.num_timesteps)

        def _on_step(self) -> bool:
            return self.go_on

    # A rollout's steps, or an episode's: HalfCheetah-v5 ends after 1,000.
    every = max(1, round(job["log_every"] / (1_000 if off_policy else job["num_envs"] * job["num_steps"])))
    model.learn(job["total"], callback=TakesTurns(), log_interval=every)
    folder.cleanup()
    if turns is not None:
        return None
    fresh = make_vec_env(job["env"], n_envs=job["num_envs"], seed=job["seed"] + 1_000_000)
    mean, _ = evaluate_policy(model, fresh, n_eval_episodes=job["episodes"], deterministic=True)
    return {"final_return": float(mean)}


def _a2c(job: dict[str, Any], env: Any, folder: str) -> Any:
    """Networks (64, 64 tanh for each of policy and value), gamma, lambda, value factor, clipping: as A2C ships."""
    from stable_baselines3 import A2C

    return A2C(
        "MlpPolicy",
        env,
        learning_rate=7e-4,
        n_steps=job["num_steps"],
        gamma=0.99,
        gae_lambda=1.0,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        use_rms_prop=job["optimizer"] == "rmsprop",
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": _tanh()},
        tensorboard_log=folder,
        seed=job["seed"],
        device="cpu",
    )


def _ppo(job: dict[str, Any], env: Any, folder: str) -> Any:
    """The settings of our side's config."""
    from stable_baselines3 import PPO

    ours = job["config"]
    return PPO(
        "MlpPolicy",
        env,
        learning_rate=ours["learning_rate"],
        n_steps=ours["num_steps"],
        batch_size=ours["batch_size"],
        n_epochs=ours["epochs"],
        gamma=ours["gamma"],
        gae_lambda=ours["gae_lambda"],
        clip_range=ours["clip_range"],
        ent_coef=ours["ent_coef"],
        vf_coef=ours["vf_coef"],
        max_grad_norm=ours["max_grad_norm"],
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": _tanh()},
        tensorboard_log=folder,
        seed=job["seed"],
        device="cpu",
    )


def _off_policy(job: dict[str, Any], env: Any, folder: str) -> Any:
    """SAC or TD3 with the settings of our side's config."""
    import numpy as np
    from stable_baselines3.common.noise import NormalActionNoise

    ours, agent = job["config"], job["agent"].upper()
    own: dict[str, Any] = {}
    if agent == "TD3":
        size = env.action_space.shape
        own["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, ours["exploration_noise"]))
        own["policy_delay"] = ours["policy_delay"]
        own |= {"target_policy_noise": ours["target_policy_noise"], "target_noise_clip": ours["target_noise_clip"]}
    else:
        own["ent_coef"] = f"auto_{ours['alpha']}"
    if job["peer"] == "sb3":
        own["device"] = "cpu"
    return getattr(importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[job["peer"]]), agent)(
        "MlpPolicy",
        env,
        learning_rate=ours["actor_lr"],
        buffer_size=ours["buffer_size"],
        learning_starts=ours["learning_starts"],
        batch_size=ours["batch_size"],
        tau=ours["tau"],
        gamma=ours["gamma"],
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": list(ours["hidden"])},
        tensorboard_log=folder,
        seed=job["seed"],
        **own,
    )


def _tanh() -> Any:
    from torch import nn

    return nn.Tanh


def _env_alone(job: dict[str, Any]) -> dict[str, float]:
    """Steps/s of its vector environment under random actions."""
    import numpy as np
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(job["env"], n_envs=job["num_envs"], seed=job["seed"])
    actions = [np.stack([env.action_space.sample() for _ in range(job["num_envs"])]) for _ in range(1000)]
    env.reset()
    steps, begin = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < job["seconds"]:
        env.step(actions[steps % 1000])
        steps += 1
    return {"steps_per_second": steps * job["num_envs"] / seconds}


if __name__ == "__main__":
    raise SystemExit(main())
