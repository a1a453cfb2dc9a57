"""The C of an agent: a new one of its spec, or one that was trained before, where it fits."""

from __future__ import annotations

import torch

from costgrad.rl.errors import UserError
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.networks.encoder import Encoder


def build_critic(
    critic: Critic | None, spec: CriticSpec, generator: torch.Generator, encoder: Encoder | None, device: torch.device
) -> Critic:
    """A new C of a spec, or the one that was given, where it fits.

    Args:
        critic: one that was trained before and goes on learning; None builds one.
        spec: what the agent needs on these spaces.
        generator: decides the initial weights.
        encoder: of the new one.
        device: where it lives.

    Raises:
        UserError: the given C is of other spaces, or of another kind than the agent learns.
    """
    if critic is None:
        return Critic(spec, generator, encoder).to(device)
    for field in ("obs_shape", "action", "action_size", "action_start", "low", "high", "choices", "starts"):
        if (got := getattr(critic.spec, field)) != (wanted := getattr(spec, field)):
            raise UserError(f"critic= has {field} {got!r}: the agent on these spaces takes {wanted!r}")
    for field in ("head", "batch_norm"):
        if (got := getattr(critic.spec, field)) != (wanted := getattr(spec, field)):
            raise UserError(f"critic= has {field} {got!r}: this agent with these settings takes {wanted!r}")
    return critic.to(device)
