"""What every agent comes to after some updates, as a digest of all that it holds.

`fingerprints.json` has the digests that stand: a change that is not meant to change what an agent learns leaves them as
they are. `python -m tests.contracts.fingerprints` writes those of the present code; with `--show` it only prints what
differs. Digests are equal to the bit on one machine only, so each comes with a sum that any machine is near to.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from costgrad.agents import AGENTS
from costgrad.envs.make import make
from costgrad.rl.runs.train import train

FILE = Path(__file__).with_suffix(".json")
SMALL = {"hidden": (16, 16)}
OFF = {**SMALL, "learning_starts": 40, "batch_size": 16, "buffer_size": 500}
SEARCH = {"hidden": (8,)}


class Case(NamedTuple):
    agent: str
    env: str
    steps: int
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the agent, the task and the settings that make it special."""
        common = {**SMALL, **OFF, **SEARCH}
        special = [f"{key}={value}" for key, value in self.config.items() if common.get(key) != value]
        return " ".join((self.agent, self.env, *special))


UNDER_WAY = (
    *("noise", "noise_before", "memory.newest", "memory.episodes"),
    *(f"population.{name}" for name in ("playing", "episode_cost", "starts", "rows", "queue")),
)


def learnt(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of an agent's tensors that are not of unfinished episodes or of an unfinished rollout."""
    rollout = "memory.reward" in tensors  # a replay has costs
    beside = {name for name in tensors if name in UNDER_WAY or (rollout and name.startswith("memory."))}
    return {name: tensor for name, tensor in tensors.items() if name not in beside}


ON = {**SMALL, "num_steps": 16, "batch_size": 32}
CASES = [
    Case("a2c", "CartPole-v1", 400, {**ON, "critic_warmup": 64}),
    Case("a2c", "Pendulum-v1", 400, {**ON, "critic_warmup": 64}),
    Case("a2c", "Pendulum-v1", 400, {**ON, "critic_warmup": 64, "actor_gradient": "pathwise", "head": "hl_gauss"}),
    Case("a2c", "CartPole-v1", 400, {**ON, "critic_warmup": 64, "actor_gradient": "score", "optimizer": "rmsprop"}),
    Case("a2c", "Pendulum-v1", 400, {**ON, "critic_warmup": 0, "n_critics": 2, "dropout": 0.1, "l2": 1e-3}),
    Case("ppo", "CartPole-v1", 400, ON),
    Case("ppo", "Pendulum-v1", 400, {**ON, "state_std": True, "clip_range_vf": 0.2}),
    Case("ppo", "Pendulum-v1", 960, {**ON, "layer_norm": True, "head": "hl_gauss", "l1": 1e-4}),
    Case("reppo", "CartPole-v1", 400, {**ON, "critic_warmup": 64, "head": "regression"}),
    Case("reppo", "Pendulum-v1", 400, {**ON, "critic_warmup": 64}),
    Case("sac", "Pendulum-v1", 200, OFF),
    Case("sac", "CartPole-v1", 200, {**OFF, "n_step": 3, "normalize_obs": True}),
    Case("sac", "Pendulum-v1", 200, {**OFF, "layer_norm": True, "dropout": 0.1}),
    Case("sac", "Pendulum-v1", 200, {**OFF, "per_alpha": 0.6, "max_grad_norm": 1.0, "noise_correlation": 0.5}),
    Case("sac", "costgrad/PointGoal-v0", 200, {**OFF, "hindsight": 4}),
    Case("td3", "Pendulum-v1", 200, OFF),
    Case("td3", "Pendulum-v1", 200, {**OFF, "n_step": 3, "normalize_obs": True, "activation": "tanh"}),
    Case("crossq", "Pendulum-v1", 200, {**OFF, "update_ratio": 1.0}),
    Case("crossq", "CartPole-v1", 200, {**OFF, "update_ratio": 1.0, "head": "regression"}),
    Case("guidedes", "Pendulum-v1", 2000, {**SEARCH, "directions": 2, "critic_hidden": (8,), "batch_size": 16}),
    Case("es", "CartPole-v1", 600, {**SEARCH, "directions": 2}),
    Case("ars", "CartPole-v1", 600, {**SEARCH, "directions": 2, "top": 1}),
    Case("cmaes", "CartPole-v1", 600, {**SEARCH, "candidates": 4}),
    Case("spsa", "CartPole-v1", 600, {**SEARCH}),
    Case("randomsearch", "CartPole-v1", 600, {**SEARCH}),
]


def digest(case: Case) -> dict[str, Any]:
    """Trains briefly; the digest of all tensors that the agent keeps, whatever their names, and sums of them."""
    cls, config_cls = AGENTS[case.agent]
    env = make(case.env, 2, 3, backend="sync")
    try:
        agent = cls(env.single_observation_space, env.single_action_space, config_cls(**case.config), seed=7)
        train(agent, env, case.steps, progress=False, eval_episodes=1)
    finally:
        env.close()
    arrays = [tensor.detach().cpu().numpy() for tensor in learnt(agent.state()[0]).values() if tensor.numel()]
    bits = sorted(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays)
    floats = [array.astype(np.float64) for array in arrays if array.dtype.kind == "f"]
    size = sum(float(np.abs(array).sum()) for array in floats)
    return {"digest": hashlib.sha256("".join(bits).encode()).hexdigest()[:16], "size": round(size, 6)}


def machine() -> str:
    """What bits depend on: the same string gives the same bits."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    parts = [a @ b, a[:7, :5] @ b[:5, :3], a.tanh(), a.exp(), torch.nn.functional.layer_norm(a, (64,)), a.sum(0)]
    parts += [torch.from_numpy(np.tanh(a.numpy())), torch.from_numpy(a.numpy()[:4, :9] @ b.numpy()[:9])]
    text = "".join(hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in parts)
    return f"{torch.__version__} {np.__version__} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def main() -> int:
    """Writes the fingerprints, or shows which differ."""
    torch.set_num_threads(1)
    found = {case.name: digest(case) for case in CASES}
    if "--show" in sys.argv:
        stand = json.loads(FILE.read_text())
        print(f"machine {'as' if stand['machine'] == machine() else 'not as'} the one that wrote the file")
        for name, value in found.items():
            if stand["cases"].get(name) != value:
                print(f"{name}: {stand['cases'].get(name)} -> {value}")
        return 0
    FILE.write_text(json.dumps({"machine": machine(), "cases": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
