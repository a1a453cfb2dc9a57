"""An actor among environments: it explores in training and plays for people, both in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from costgrad.rl.checkpoint import restore_generator
from costgrad.rl.checks import tensor
from costgrad.rl.data import to_numpy
from costgrad.rl.networks.actor import Actor
from costgrad.rl.networks.distributions import Policy
from costgrad.rl.networks.numpy_forward import forward_of
from costgrad.rl.norm import RunningNorm
from costgrad.rl.seeds import spawn_seeds
from costgrad.rl.spaces import Codec

CHUNK = 64  # vector steps whose noise is drawn at once where there are no rollouts


class Acting:
    """From observations to actions: a forward pass in NumPy, and noise that is drawn once per rollout.

    With `correlation` c the noise is made of a first-order autoregression over time: c of the last normal draw and
    sqrt(1 - c^2) of a new one. Each step's noise keeps its own distribution (discrete actions: Gumbel's, by the
    quantiles of the normal), so the policy's density is what it was, but the actions swing for some 1 / (1 - c) steps
    instead of cancelling out (as coloured noise does, 2312.11091).

    Args:
        codec: of the environment's spaces.
        actor: after its optimizer was made, which moves its parameters.
        norm: of the observations; None leaves them.
        num_steps: T of a rollout, or `CHUNK` where there are none.
        seed: of exploration, and of what an update draws.
        correlation: c, from 0 to below 1.
    """

    def __init__(
        self,
        codec: Codec,
        actor: Actor,
        norm: RunningNorm | None,
        num_steps: int,
        seed: int,
        correlation: float = 0.0,
    ) -> None:
        self.codec, self.actor, self.num_steps = codec, actor, num_steps
        self.correlation = correlation
        self.output = forward_of(norm, actor)
        training, playing = spawn_seeds(seed, 2)
        self.generator = torch.Generator(codec.device).manual_seed(training)
        self.predict_generator = torch.Generator(codec.device).manual_seed(playing)  # people's calls disturb nothing
        self._noise = np.zeros((0, 0))
        self._t = 0  # step of the rollout whose noise is drawn
        self._last: np.ndarray | None = None  # of the rollout before

    def on_reset(self) -> None:
        """Called after every reset; noise starts anew, for the number of environments may have changed."""
        self._t, self._last = 0, None

    def explore(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next step of a rollout: obs [N, *obs_shape] -> sample of pi, action (see distributions.py)."""
        t, self._t = self._t, (self._t + 1) % self.num_steps
        if t == 0:
            self._noise = self._draw(self.num_steps, len(obs))
        return self.actor.act(
            self.output(obs), self._noise[t - self.num_steps]
        )  # from the end: a resumed run has the rest alone

    def uniform(self, rows: int) -> np.ndarray:
        """Actions [rows, A], [rows] or [rows, D] drawn with equal chances, to begin with, step after step."""
        if self.codec.discrete:  # a policy that prefers nothing
            logits = np.zeros((rows, self.codec.action_size), np.float32)
            return self.actor.act(logits, self._draw(1, rows)[0])[1]
        if self.correlation:  # the quantiles of normal noise
            return 2 * to_numpy(torch.special.ndtr(torch.from_numpy(self._normal(1, rows)[0]))) - 1
        shape = (rows, *self.actor.noise_shape)
        return to_numpy(2 * torch.rand(shape, generator=self.generator, device=self.generator.device) - 1)

    def best(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mode of pi: obs [N, *obs_shape] -> sample, action."""
        return self.actor.act(self.output(obs), None)

    def predict(self, obs: Any, deterministic: bool) -> np.ndarray:
        """An action for one observation or a batch in the environment's units; see `Codec.predict`."""

        def policy(obs: np.ndarray) -> np.ndarray:
            noise = None if deterministic else to_numpy(self.actor.noise(len(obs), generator=self.predict_generator))
            return self.actor.act(self.output(obs), noise)[1]

        return self.codec.predict(policy, obs)

    def action_noise(self, rows: int, count: int = 1) -> Tensor | None:
        """Noise for an expectation over a policy's actions, what `sample` takes.

        Returns:
            [count, rows, A] of continuous actions, [rows, D, M] of vectors of choices, None for a single discrete
            action, whose expectations are exact.
        """
        if self.codec.multi:
            return self.actor.noise(rows, generator=self.generator)
        if self.codec.discrete:
            return None
        return self.actor.noise(count, rows, generator=self.generator)

    def sample_actions(self, pi: Policy, rows: int, count: int = 1) -> Tensor | None:
        """Samples of a policy as functions of its parameters: those that `action_noise` gives, or None."""
        noise = self.action_noise(rows, count)
        return None if noise is None else pi.sample(noise)

    def state(self) -> dict[str, Tensor]:
        """The generators, and the noise that is drawn and not used yet."""
        state = {"generator": self.generator.get_state(), "predict_generator": self.predict_generator.get_state()}
        if self._t:
            state["noise"] = torch.from_numpy(self._noise[self._t - self.num_steps :])
        if self._last is not None:
            state["noise_before"] = torch.from_numpy(self._last)
        return state

    def load_state(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Restores what `state` gave; `steps` seeds generators of another device's kind. Raises ValueError."""
        each: list[int | None] = list(self.actor.noise_shape)
        for name, shape in {"noise": [None, None, *each], "noise_before": [None, *each]}.items():
            if name in tensors:
                tensor(tensors, name, torch.float32, shape)
        restore_generator(self.generator, tensors["generator"], steps)
        restore_generator(self.predict_generator, tensors["predict_generator"], steps)
        self.on_reset()
        if "noise" in tensors:
            left = to_numpy(tensors["noise"])
            if not 0 < len(left) < self.num_steps:
                raise ValueError(f"its noise is for {len(left)} steps of a rollout of {self.num_steps}")
            self._t, self._noise = self.num_steps - len(left), left.copy()
        if "noise_before" in tensors:
            self._last = to_numpy(tensors["noise_before"]).copy()

    def _draw(self, steps: int, rows: int) -> np.ndarray:
        """The policy's noise [steps, rows, ...]."""
        if not self.correlation:
            return to_numpy(self.actor.noise(steps, rows, generator=self.generator))
        return self.actor.noise_from(self._normal(steps, rows))

    def _normal(self, steps: int, rows: int) -> np.ndarray:
        """Normal noise that remembers [steps, rows, ...], and goes on from the last that was drawn."""
        shape = (steps, rows, *self.actor.noise_shape)
        normal = to_numpy(torch.randn(shape, generator=self.generator, device=self.generator.device))
        kept, fresh = np.float32(self.correlation), np.float32((1 - self.correlation**2) ** 0.5)
        for t in range(len(normal)):
            before = self._last if t == 0 else normal[t - 1]
            if before is not None:
                normal[t] = kept * before + fresh * normal[t]
        self._last = normal[-1]
        return normal
