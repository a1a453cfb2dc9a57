"""Images: bytes in the memory and in checkpoints, float32 where a network sees them, and the same numbers as before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import costgrad.rl.buffers.replay
from costgrad.agents import AGENTS
from costgrad.rl import checkpoint
from costgrad.rl.errors import UserError
from costgrad.rl.loop import interact
from tests.streams import SMALL, everything

SHAPE = (4, 5, 3)


class Film(gymnasium.Env):
    """Pictures of noise, of bytes or of the same numbers in float32; the reward is how bright the first pixel is."""

    def __init__(self, dtype: Any) -> None:
        self.observation_space = spaces.Box(0, 255, SHAPE, dtype)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        obs = self._picture()
        return obs, float(obs[0, 0, 0]) / 255 - float(action[0]) ** 2, self.count >= 9, False, {}

    def _picture(self) -> np.ndarray:
        return self.np_random.integers(0, 256, SHAPE).astype(self.observation_space.dtype)


def films(dtype: Any, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> VectorEnv:
    return SyncVectorEnv([lambda: Film(dtype)] * 4, autoreset_mode=mode)


def trained(name: str, dtype: Any, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> Any:
    env, (cls, config) = films(dtype, mode), AGENTS[name]
    settings = SMALL[name] | ({"normalize_obs": True} if name in ("sac", "td3") else {})
    agent = cls(env.single_observation_space, env.single_action_space, config(**settings), seed=1)
    ticks = interact(agent, env, seed=3)
    for _ in range(24):
        next(ticks)
    return agent


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", AGENTS)
def test_bytes_and_the_same_numbers_in_float32_train_the_same_agent(name: str, mode: AutoresetMode) -> None:
    of_bytes, of_floats = trained(name, np.uint8, mode), trained(name, np.float32, mode)
    a, b = everything(of_bytes), everything(of_floats)
    assert a.keys() == b.keys() and of_bytes.updates > 0
    for key, value in a.items():
        assert torch.equal(value.to(b[key].dtype), b[key]), key
    picture = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    each = [
        agent.predict(obs, deterministic=True)[0]
        for agent, obs in ((of_bytes, picture), (of_floats, picture.astype(np.float32)), (of_bytes, picture.tolist()))
    ]
    np.testing.assert_array_equal(each[0], each[1])
    np.testing.assert_array_equal(each[0], each[2])
    action = torch.from_numpy(each[0])
    if hasattr(of_bytes, "critic") and of_bytes.critic.spec.action == "box":
        C = of_bytes.critic
        assert torch.equal(C(torch.from_numpy(picture), action), C(torch.from_numpy(picture).float(), action))


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_a_replay_and_its_checkpoint_hold_bytes(name: str, tmp_path: Path) -> None:
    agent = trained(name, np.uint8)
    agent.save(tmp_path / "agent")
    tensors, _ = checkpoint.read(tmp_path / "agent")
    again = AGENTS[name][0].load(tmp_path / "agent")
    for key in ("obs", "next_obs"):
        assert agent.memory.columns[key].dtype == tensors[f"memory.{key}"].dtype == torch.uint8
        assert again.memory.columns[key].dtype == torch.uint8
    a, b = everything(agent), everything(again)
    assert all(torch.equal(a[key], b[key]) for key in a)
    batch = agent.memory.sample(8)
    assert batch.obs.dtype == torch.uint8 and agent.critic.prepared(batch).obs.dtype == torch.float32


def test_the_memory_that_a_replay_of_images_needs_is_that_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 bytes of two pictures and 22 of all else, where floats took 502."""
    monkeypatch.setattr(
        costgrad.rl.buffers.replay.psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000)
    )
    monkeypatch.setattr(costgrad.rl.buffers.replay, "GIB", 1_000)
    for dtype, needed in ((np.uint8, "1420.0"), (np.float32, "5020.0")):
        env = films(dtype)
        config = AGENTS["td3"][1](**SMALL["td3"] | {"buffer_size": 10_000})
        agent = AGENTS["td3"][0](env.single_observation_space, env.single_action_space, config)
        with pytest.raises(UserError, match=rf"a replay of 10,000 transitions takes {needed} GiB"):
            next(interact(agent, env, seed=0))
