"""The peer's side of scripts/bench.py: the same work by Stable-Baselines3's A2C, as its users would write it.

It imports nothing of ours, for it runs in the interpreter that Stable-Baselines3 is installed in, and speaks through one
line of JSON at each end: settings as the only argument, figures as the last line printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

sys.path[0:1] = []  # the folder of this file: its neighbours' names must not hide a library's


def main() -> int:
    """Does what the settings say and prints the figures."""
    job = json.loads(sys.argv[1])
    import stable_baselines3
    import torch

    torch.set_num_threads(job["threads"])
    figures = {"learn": _learn, "env": _env_alone}[job["mode"]](job)
    print(json.dumps({**figures, "version": f"stable-baselines3 {stable_baselines3.__version__}"}), flush=True)
    return 0


def _learn(job: dict[str, Any]) -> dict[str, float]:
    """Trains: steady steps/s between `warmup` and `warmup` + `seconds`, or the return after `total` steps."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    env = make_vec_env(job["env"], n_envs=job["num_envs"], seed=job["seed"])
    folder = tempfile.TemporaryDirectory()
    # Networks (64, 64 tanh for each of policy and value), gamma, lambda, value factor, clipping: as A2C ships.
    model = A2C(
        "MlpPolicy",
        env,
        learning_rate=7e-4,
        n_steps=job["num_steps"],
        gamma=0.99,
        gae_lambda=1.0,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        use_rms_prop=True,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": _tanh()},
        tensorboard_log=folder.name,
        seed=job["seed"],
        device="cpu",
    )
    marks: list[tuple[float, float, int]] = []
    begin = time.perf_counter()

    def callback(_locals: Any, _globals: Any) -> bool:
        now = time.perf_counter()
        if not marks:
            if now - begin >= job["warmup"]:
                marks.append((now, time.process_time(), model.num_timesteps))
        elif now - marks[0][0] >= job["seconds"]:
            marks.append((now, time.process_time(), model.num_timesteps))
            return False
        return True

    every = max(1, round(job["log_every"] / (job["num_envs"] * job["num_steps"])))
    model.learn(job["total"], callback=callback if job["seconds"] else None, log_interval=every)
    figures: dict[str, float] = {}
    if job["seconds"]:
        (wall, cpu, steps), (wall_end, cpu_end, steps_end) = marks[0], marks[-1]
        figures["steps_per_second"] = (steps_end - steps) / (wall_end - wall)
        figures["steps_per_cpu_second"] = (steps_end - steps) / (cpu_end - cpu)
    else:
        fresh = make_vec_env(job["env"], n_envs=job["num_envs"], seed=job["seed"] + 1_000_000)
        mean, _ = evaluate_policy(model, fresh, n_eval_episodes=job["episodes"], deterministic=True)
        figures["final_return"] = float(mean)
    folder.cleanup()
    return figures


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
