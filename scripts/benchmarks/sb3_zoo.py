"""The peer's side of `scripts/bench.py threshold`: a Stable-Baselines3 agent with the settings of rl-baselines3-zoo.

It runs in the interpreter that Stable-Baselines3 is installed in, so it imports nothing of ours but a file of the
standard library's. Settings come as JSON, the only argument; one line of JSON is printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from turns import Goal  # type: ignore[import-not-found] # lies beside this file

sys.path[0:1] = []  # the folder of this file: its neighbours' names must not hide a library's


def main() -> int:
    """Trains as the settings say and prints the figures."""
    job = json.loads(sys.argv[1])
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(job["threads"])
    settings = {key: _schedule(value) for key, value in job["settings"].items()}
    env = make_vec_env(job["env"], n_envs=job["num_envs"], seed=job["seed"])
    if job["normalize"]:
        env = VecNormalize(env, gamma=settings["gamma"])
    with tempfile.TemporaryDirectory() as folder:
        more = {"seed": job["seed"], "tensorboard_log": folder, "device": "cpu"}
        model = getattr(stable_baselines3, job["agent"])("MlpPolicy", env, **settings, **more)
        goal = Goal(job["threshold"], job["window"], job["launched"])

        def follow(seen: dict[str, Any], _: dict[str, Any]) -> bool:
            # A Monitor is round each environment, inside VecNormalize: its returns are the task's own.
            ended = [info["episode"]["r"] for info in seen["infos"] if "episode" in info]
            return not goal(model.num_timesteps, ended)

        model.learn(job["steps"], callback=follow)
    print(json.dumps(goal.figures), flush=True)
    return 0


def _schedule(value: Any) -> Any:
    """The zoo's "lin_x" falls linearly from x to 0 over the run."""
    if not isinstance(value, str):
        return value
    start = float(value.removeprefix("lin_"))
    falling: Callable[[float], float] = lambda remaining: remaining * start  # noqa: E731
    return falling


if __name__ == "__main__":
    raise SystemExit(main())
