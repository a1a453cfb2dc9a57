"""C, the differentiable critic: what an action will have cost, as a module of its own.

C estimates the discounted cost-to-go (cost = -reward). It is built from a small spec, saved and loaded alone, and
speaks the user's units: raw observations, actions as the environment takes them, cost as the environment counts it.

    C = Critic.load("runs/first/critic")
    C(obs, action).mean().backward()        # in any PyTorch graph: the gradient reaches action, and what made it
    C.expected(obs, probs).mean().backward()  # discrete actions: the exact expectation, differentiable in probs
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from costgrad.rl import checkpoint
from costgrad.rl.checks import UNFIT, same_form, short
from costgrad.rl.data import Batch
from costgrad.rl.errors import UserError
from costgrad.rl.networks.batch_norm import BatchNormMLP
from costgrad.rl.networks.critic_spec import MAX_JOINT_ACTIONS as MAX_JOINT_ACTIONS
from costgrad.rl.networks.critic_spec import CriticSpec as CriticSpec
from costgrad.rl.networks.critic_spec import read_spec
from costgrad.rl.networks.encoder import Encoder, EncoderLike, build_encoder
from costgrad.rl.networks.heads import LIMIT, CostScale, HLGauss, Regression
from costgrad.rl.networks.mlp import MLP
from costgrad.rl.norm import RunningNorm
from costgrad.rl.observations import Observations
from costgrad.rl.spaces import space_from_json, space_to_json, to_agent


class Critic(nn.Module):
    """An ensemble of K critics in one batched tensor, with its normaliser and its scale of cost.

    Args:
        spec: its shape.
        generator: decides the initial weights.
        encoder: turns observations into features [B, F]; without one they are laid flat.
    """

    low: Tensor
    high: Tensor
    combinations: Tensor
    strides: Tensor
    starts: Tensor

    def __init__(
        self, spec: CriticSpec, generator: torch.Generator | None = None, encoder: Encoder | None = None
    ) -> None:
        super().__init__()
        if spec.features != (encoder.features if encoder is not None else 0):
            spec = replace(spec, features=encoder.features if encoder is not None else 0)
        self.spec = spec
        self.encoder = encoder
        self.discrete = spec.action == "discrete"
        self.obs_norm = RunningNorm(spec.obs_shape, spec.channel_axis)
        self.head: HLGauss | Regression = HLGauss(spec.bins) if spec.head == "hl_gauss" else Regression()
        self.cost_scale = CostScale(self.head.bounded)
        self.heads = spec.action_size if spec.action == "discrete" else 1
        features = spec.features or math.prod(spec.obs_shape)
        features += spec.action_size if spec.action in ("box", "one_hot") else 0
        sizes = (features, *spec.hidden, self.heads * self.head.outputs)
        members = spec.ensemble if spec.ensemble > 1 else None
        first: dict[str, Any] = {"out_gain": 0.0, "generator": generator, "init": spec.init}
        self.net: MLP
        if spec.batch_norm:
            if spec.layer_norm or spec.dropout:
                raise UserError("batch_norm stands alone: layer_norm and dropout must be off")
            self.net = BatchNormMLP(sizes, members, spec.activation, **first)
        else:
            self.net = MLP(sizes, members, spec.activation, spec.layer_norm, spec.dropout, **first)
        with torch.no_grad():
            self.net.biases[-1].add_(self.head.initial_bias().repeat(self.heads))
        self.register_buffer("low", torch.tensor(spec.low))
        self.register_buffer("high", torch.tensor(spec.high))
        # Of a vector of choices: every combination [P, D], and what each choice counts in a combination's index.
        combinations = list(product(*map(range, spec.choices))) if self.discrete and spec.choices else []
        strides = [math.prod(spec.choices[d + 1 :]) for d in range(len(spec.choices))]
        for name, value in (("combinations", combinations), ("strides", strides), ("starts", spec.starts)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.int64), persistent=False)

    # In the user's units.

    def forward(self, obs: Tensor, action: Tensor | None = None) -> Tensor:
        """The discounted cost-to-go in the environment's units.

        Args:
            obs: [B, *obs_shape] raw.
            action: [B, A] or [B, *box shape] in the environment's bounds; [B] integers, or [B, D] of them; None for
                "none", and for "discrete" where every action's cost is wanted.

        Returns:
            [K, B], or [K, B, n] for "discrete" without action.

        Raises:
            UserError: obs or action has another shape, or an action is missing or one too many.
        """
        if obs.shape[1:] != self.spec.obs_shape:
            raise UserError(f"obs has shape {tuple(obs.shape)}: this C takes [B, *{self.spec.obs_shape}]")
        if (action is None) != (self.spec.action == "none") and self.spec.action != "discrete":
            wanted = "no action" if self.spec.action == "none" else f"an action of {self.spec.action_size} numbers"
            raise UserError(f"this C takes {wanted}, got {None if action is None else tuple(action.shape)}")
        if action is not None:
            self._check_action(action, len(obs))
        x = self.encode(self.features(obs.to(self.low.dtype)))
        if self.spec.action == "box" and action is not None:
            return self.cost(x, to_agent(action.reshape(len(x), -1), self.low, self.high))
        if self.spec.choices and action is not None:
            action = action.reshape(len(x), -1) - self.starts
        elif action is not None:
            action = action - self.spec.action_start
        if self.spec.action == "one_hot":
            return self.cost(x, action)
        cost = self.cost(x)
        return cost if action is None else _take(cost, self.index(action))

    def expected(self, obs: Tensor, probs: Tensor) -> Tensor:
        """sum_a probs(a) C(s, a), exact, differentiable in probs and obs: [B, *obs_shape], [B, n] -> [K, B].

        Where an action is a vector of choices, probs is [B, P] in the order of `combinations` [P, D].
        """
        if self.spec.action != "discrete":
            raise UserError(f"expected() is for discrete actions; this C has action={self.spec.action!r}")
        if probs.shape != (len(obs), self.heads):
            raise UserError(f"probs has shape {tuple(probs.shape)}: this C takes [{len(obs)}, {self.heads}] beside obs")
        return (self(obs) * probs).sum(-1)

    def _check_action(self, action: Tensor, rows: int) -> None:
        """Raises UserError where an action of the user's is not what `forward` takes beside `rows` observations."""
        spec = self.spec
        width = spec.action_size if spec.action == "box" else len(spec.choices)
        if action.shape[:1] != (rows,) or action.numel() != rows * (width or 1) or (not width and action.dim() != 1):
            takes = f"[{rows}, {width}]" if width else f"[{rows}]"
            raise UserError(f"action has shape {tuple(action.shape)}: this C takes {takes} beside obs")
        if spec.action != "box" and action.is_floating_point():
            raise UserError(f"action holds {action.dtype}: this C takes whole numbers, as its actions are choices")

    @property
    def norm(self) -> RunningNorm | None:
        """What normalises observations; None where they stay raw."""
        return self.obs_norm if self.spec.normalize_obs else None

    # In the agent's units: what an update calls many times, on features that it normalised once.

    def features(self, obs: Tensor) -> Tensor:
        """Raw observations [B, *obs_shape], floats or bytes -> normalised; flat [B, F] without an encoder."""
        if obs.dtype == torch.uint8:
            obs = obs.to(self.low.dtype)
        if self.spec.normalize_obs:
            obs = self.obs_norm(obs)
        return obs if obs.dim() == 2 or self.encoder is not None else obs.flatten(1)

    def encode(self, x: Tensor) -> Tensor:
        """What `features` gives -> the encoder's features [B, F], with their graph; the same without an encoder."""
        return x if self.encoder is None else self.encoder(x)

    def prepared(self, batch: Batch) -> Batch:
        """A batch of a replay with features in place of observations, on C's device."""
        moved = Batch(*(column.to(self.low.device) for column in batch))
        return moved._replace(obs=self.features(moved.obs), next_obs=self.features(moved.next_obs))

    def output(
        self, x: Tensor, action: Tensor | None = None, masks: list[Tensor] | None = None, first: bool = False
    ) -> Tensor:
        """The last layer: features [B, F] (and an action of `cost`) -> [K, B, head] or [K, B, n, head]."""
        return self.shaped(self.net(self.inputs(x, action), masks, first))

    def inputs(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        """What the net is given: features [B, F], and an action of `cost`."""
        if action is None:
            return x
        return torch.cat((x, self.one_hot(action) if self.spec.action == "one_hot" else action), -1)

    def shaped(self, output: Tensor) -> Tensor:
        """What the net says, a single one without K -> `output`."""
        actions = (self.heads,) if self.discrete else ()
        return output.view(-1, output.shape[-2], *actions, self.head.outputs)  # a single critic: an ensemble of one

    def cost(
        self, x: Tensor, action: Tensor | None = None, masks: list[Tensor] | None = None, first: bool = False
    ) -> Tensor:
        """Features [B, F] -> cost [K, B], or [K, B, n] of "discrete", in the environment's units.

        Args:
            x: features.
            action: [B, A] in [-1, 1] for "box"; [B, D] choices from 0 for "one_hot".
            masks: of dropout.
            first: ask the first of the ensemble alone: K is 1.
        """
        return self.cost_of(self.output(x, action, masks, first))

    def cost_of(self, output: Tensor) -> Tensor:
        """The cost [...] that an output [..., head] stands for."""
        return self.cost_scale.cost(self.head.mean(output))

    def index(self, action: Tensor) -> Tensor:
        """An action in the list of all, from 0: [B] or [B, D] int64 -> [B] int64."""
        return (action * self.strides).sum(-1) if self.spec.choices else action

    def one_hot(self, action: Tensor) -> Tensor:
        """Choices [B, D] int64 from 0 -> [B, sum of choices] of 0 and 1."""
        parts = (F.one_hot(action[:, d].long(), n) for d, n in enumerate(self.spec.choices))
        return torch.cat(tuple(parts), -1).to(self.low.dtype)

    def loss(
        self,
        x: Tensor,
        action: Tensor | None,
        target: Tensor,
        weight: Tensor,
        masks: list[Tensor] | None = None,
    ) -> Tensor:
        """The mean of `losses` over a batch, by `weight` [B] of sum 1: a scalar."""
        return self.losses(x, action, target, masks) @ weight

    def losses(
        self,
        x: Tensor,
        action: Tensor | None,
        target: Tensor,
        masks: list[Tensor] | None = None,
    ) -> Tensor:
        """The loss of each row of a batch, summed over the ensemble.

        Args:
            x: features [B, F].
            action: [B, A] in [-1, 1], [B] or [B, D] int64 from 0, or None, as the spec says.
            target: cost-to-go [B] in the environment's units, without gradient.
            masks: of dropout.

        Returns:
            [B].
        """
        if self.spec.action == "discrete" and action is not None:
            return self.output_losses(self.taken(self.output(x, None, masks), action), target)
        return self.output_losses(self.output(x, action, masks), target)

    def taken(self, output: Tensor, action: Tensor) -> Tensor:
        """The output for the action taken, of those for all: [K, B, n, head], [B] or [B, D] -> [K, B, head]."""
        return output.gather(2, self.places(action, output)).squeeze(2)

    def places(self, action: Tensor, output: Tensor) -> Tensor:
        """Where `taken` reads in dimension 2: [B] or [B, D], [K, B, ..., head] -> [K, B, 1, head]."""
        return self.index(action).view(1, -1, 1, 1).expand(output.shape[0], -1, 1, output.shape[-1])

    def output_losses(self, output: Tensor, target: Tensor) -> Tensor:
        """`losses` of an output [K, B, head] that is there already: -> [B]."""
        loss = self.head.loss(output, self.cost_scale.scaled(target))
        return loss[0] if len(loss) == 1 else loss.sum(0)

    def adapt(self, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Fits the scale to a rollout's targets, and the last layer so that predictions stay where they were.

        Args:
            target: [B] in units of cost.
            weight: [B], of sum 1.

        Returns:
            metrics: the scale, and for hl_gauss the share of targets that the support still clips.
        """
        self.cost_scale.fit(self.net, self.head, target, weight)
        metrics = {"cost_scale": self.cost_scale.scale}
        if self.spec.head == "hl_gauss":
            metrics["clipped_targets"] = (self.cost_scale.scaled(target).abs() > LIMIT).float() @ weight
        return metrics

    # As a file.

    def save(self, path: str | Path) -> None:
        """Writes C alone, normaliser and scale included: safetensors and JSON in the folder `path`."""
        meta: dict[str, Any] = {"kind": "critic", "spec": asdict(self.spec)}
        if self.encoder is not None:
            meta["encoder"] = {"name": self.encoder.name, "observation_space": space_to_json(self.encoder.obs.space)}
        checkpoint.write(path, self.state_dict(), meta)

    @staticmethod
    def load(path: str | Path, device: str = "cpu", encoder: EncoderLike | None = None) -> Critic:
        """Reads what `save` wrote.

        Args:
            path: the folder.
            device: where C goes.
            encoder: what C was built with, where it has an encoder; a file holds weights, never code.

        Raises:
            UserError: nothing is there, it is damaged, it is not a critic, or its encoder is missing.
        """
        tensors, meta = checkpoint.read(path)
        if meta.get("kind") != "critic":
            raise UserError(f"{path} holds {_kind(meta)}: it must be a critic, as Critic.save writes it")
        saved = meta.get("encoder")
        if saved is not None and encoder is None:
            raise UserError(checkpoint.encoder_missing(f"critic {path}", saved))
        try:
            spec, built = read_spec(meta.get("spec"), tensors), None
            if saved is not None and encoder is not None:
                built = build_encoder(encoder, Observations(space_from_json(saved["observation_space"])), 0)
            critic = Critic(spec, encoder=built)
            same_form(tensors, critic.state_dict(), "critic")
            critic.load_state_dict(tensors)
        except UNFIT as error:
            raise UserError(f"critic {path} is damaged: {checkpoint.first_line(error)}") from error
        return critic.to(device).eval()


def _kind(meta: dict[str, Any]) -> str:
    """What a checkpoint holds, in words, and what to do with it."""
    if isinstance(agent := meta.get("agent"), str):
        return f"an agent of kind {short(agent)[1:-1]}, whose C is `.critic` of the loaded agent"
    return f"a {short(meta.get('kind', 'thing of unknown kind'))}"


def _take(cost: Tensor, action: Tensor) -> Tensor:
    """[K, B, n], [B] -> [K, B]: the cost of the action taken."""
    return cost.gather(-1, action.long().view(1, -1, 1).expand(len(cost), -1, 1)).squeeze(-1)
