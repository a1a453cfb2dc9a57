"""Encoders: any torch module that turns a batch of observations into features, in front of an actor and of C.

class CNN(nn.Module):
def __init__(self, observation_space): ...
def forward(self, obs): ...        # [B, *obs_shape] -> [B, F]

SAC(observation_space, action_space, config, encoder=CNN)
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from costgrad.rl.errors import UserError
from costgrad.rl.observations import Observations

EncoderLike = nn.Module | Callable[[Space[Any]], nn.Module]


class Encoder(nn.Module):
    """A user's module, in the form in which actors and C call it.

    Args:
        module: maps float32 observations [B, *obs_shape], or a dict of tensors for a Dict space, to features [B, F].
        obs: of the observation space.

    Attributes:
        features: F, found by a forward pass over two observations of zeros.

    Raises:
        UserError: the module fails on such observations, or gives something else than [B, F].
    """

    def __init__(self, module: nn.Module, obs: Observations) -> None:
        super().__init__()
        self.module = module
        self.obs = obs
        self.name = type(module).__name__
        self.features = self._width(obs.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Observations [B, *obs_shape], normalised where the agent normalises -> features [B, F]."""
        features: Tensor = self.module(self.obs.split(x))
        return features

    def _width(self, shape: tuple[int, ...]) -> int:
        was = self.module.training
        self.module.eval()  # or a batch normalisation would count the zeros
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        try:
            with torch.no_grad():
                out = self(torch.zeros(2, *shape, device=device))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UserError(f"encoder {self.name} fails on observations {(2, *shape)}: {reason}") from error
        finally:
            self.module.train(was)
        if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != 2 or not out.is_floating_point():
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UserError(f"encoder {self.name} gives {got} for 2 observations: it must give features [2, F]")
        return out.shape[1]


class SharedEncoder:
    """C's encoder as an actor reads it: no child of the actor, for its parameters belong to another optimizer.

    Args:
        encoder: of C.
        learns: whether the actor's loss trains it too.
    """

    def __init__(self, encoder: Encoder, learns: bool) -> None:
        self.encoder, self.learns, self.features = encoder, learns, encoder.features

    def __call__(self, x: Tensor) -> Tensor:
        """Observations [B, *obs_shape] -> features [B, F], without a graph unless the actor's loss trains it."""
        features: Tensor = self.encoder(x)
        return features if self.learns else features.detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedEncoder:
        """A copied actor reads the copied C's encoder where that is copied too, and otherwise the same one."""
        return SharedEncoder(memo.get(id(self.encoder), self.encoder), self.learns)


ActorEncoder = Encoder | SharedEncoder | None


def build_encoder(encoder: EncoderLike, obs: Observations, seed: int) -> Encoder:
    """The encoder of a user's module or of what a factory makes; torch's global generator is left as it was.

    Args:
        encoder: a module, which is copied, or a callable of the observation space that makes one.
        obs: of the observation space.
        seed: decides the weights that a factory draws.

    Raises:
        UserError: it is neither, or the module does not fit the observations.
    """
    if isinstance(encoder, Encoder):
        return encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        if isinstance(encoder, nn.Module):
            return Encoder(deepcopy(encoder), obs)
        if not callable(encoder):
            raise UserError(f"encoder is {encoder!r}: it must be a torch module or a factory of the observation space")
        try:
            module = encoder(obs.space)
        except TypeError as error:
            name = getattr(encoder, "__name__", type(encoder).__name__)
            raise UserError(f"encoder {name} must take the observation space alone: {error}") from error
        if not isinstance(module, nn.Module):
            raise UserError(f"the encoder's factory gives a {type(module).__name__}: it must give a torch module")
        return Encoder(module, obs)


def build_encoders(
    encoder: EncoderLike | None, share: str, obs: Observations, seed: int, critic: Encoder | None = None
) -> tuple[Encoder | None, ActorEncoder]:
    """The encoders of C and of an actor.

    Args:
        encoder: a module, or a factory of the observation space; None: C's alone counts, if there is one.
        share: "no" gives each one of its own; "critic" gives the actor C's, trained by C's loss alone; "both" trains
            it by the actor's loss too.
        obs: of the observation space.
        seed: decides the weights that a factory draws.
        critic: the encoder of a C that is there already.
    """
    of_critic = critic if critic is not None else None if encoder is None else build_encoder(encoder, obs, seed)
    if of_critic is None:
        return None, None
    if share != "no":
        return of_critic, SharedEncoder(of_critic, learns=share == "both")
    return of_critic, deepcopy(of_critic) if encoder is None else build_encoder(encoder, obs, seed + 1)
