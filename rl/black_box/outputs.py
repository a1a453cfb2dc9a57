"""Model outputs for a black box: continuous numbers, discrete choices, or both; perturbations and log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from costgrad.rl.data import to_numpy
from costgrad.rl.errors import UserError
from costgrad.rl.networks.critic import MAX_JOINT_ACTIONS


class Sample(NamedTuple):
    """M perturbed outputs of each of B rows."""

    continuous: Tensor  # [M, B, D] output + sigma noise
    choice: Tensor  # [M, B] index of one of the P combinations of choices; 0 without choices


class Outputs(nn.Module):
    """An output is [B, D + sum(choices)]: D continuous numbers, then for each choice the probabilities of each value.

    Args:
        choices: number of values of each choice; () if all outputs are continuous.
        sigma: standard deviation of the noise on continuous numbers, in their own units.
        seed: of the perturbations.

    Raises:
        UserError: an argument is out of range.
    """

    combinations: Tensor

    def __init__(self, choices: Sequence[int], sigma: float, seed: int) -> None:
        super().__init__()
        self.choices, self.sigma = tuple(choices), sigma
        if not all(isinstance(n, Integral) for n in self.choices):
            raise UserError(f"choices must be whole numbers, got {self.choices}")
        if any(n < 2 for n in self.choices) or math.prod(self.choices) > MAX_JOINT_ACTIONS:
            raise UserError(
                f"choices must each be at least 2, and at most {MAX_JOINT_ACTIONS} combinations: got {self.choices}"
            )
        if not 0 < sigma < math.inf:
            raise UserError(f"sigma must be above 0, got {sigma}: without noise C cannot learn the gradient")
        self.generator = torch.Generator().manual_seed(seed)
        combinations = list(product(*map(range, self.choices)))
        table = torch.tensor(combinations, dtype=torch.int64).view(len(combinations), -1)
        self.register_buffer("combinations", table, persistent=False)  # [P, number of choices]

    def check(self, output: Tensor) -> None:
        """Raises UserError for an invalid output."""
        least = max(sum(self.choices), 1)
        if output.dim() != 2 or output.shape[1] < least or not len(output):
            raise UserError(f"output has shape {tuple(output.shape)}: it must be [B, D], D at least {least}")
        if not output.is_floating_point():
            raise UserError(f"output holds {output.dtype}: it must hold floats")
        rounding = max(1e-3, 2 * torch.finfo(output.dtype).eps)
        for probs in self.split(output.detach())[1]:
            if not bool((probs >= 0).all()) or not bool(((probs.float().sum(1) - 1).abs() <= rounding).all()):
                raise UserError(
                    f"the output for {probs.shape[1]} choices must be probabilities, at least 0 and of sum 1 (softmax)"
                )

    def split(self, output: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Splits into continuous numbers [B, D] and the probabilities [B, n] of each choice."""
        first = output.shape[1] - sum(self.choices)
        continuous, *probs = torch.split(output, [first, *self.choices], 1)
        return continuous, probs

    def joint(self, probs: Sequence[Tensor]) -> Tensor:
        """The probability of each combination of choices [B, P]; [1, 1] without choices."""
        columns = self.combinations.T
        joint = torch.ones((1, 1), device=columns.device) if not probs else probs[0][:, columns[0]]
        for each, column in zip(probs[1:], columns[1:], strict=True):
            joint = joint * each[:, column]
        return joint

    def sample(self, output: Tensor, count: int, generator: torch.Generator | None = None) -> Sample:
        """Samples `count` perturbations of each row; the continuous part is differentiable in `output`.

        An even `count` uses mirrored (antithetic) pairs of noise. `generator` defaults to the one of training.
        """
        generator = self.generator if generator is None else generator
        continuous, probs = self.split(output)
        half = count if count % 2 else count // 2
        noise = torch.randn(half, *continuous.shape, generator=generator).to(output)
        noise = noise if count % 2 else torch.cat((noise, -noise))
        choice = torch.zeros(noise.shape[:2], dtype=torch.int64)
        if probs:
            joint = self.joint(probs).detach().cpu()
            choice = torch.multinomial(joint, count, replacement=True, generator=generator).T
        return Sample(continuous + self.sigma * noise, choice.to(output.device))

    @torch.no_grad()
    def mode(self, output: Tensor) -> Sample:
        """Each row once without noise, with its most likely choices."""
        continuous, probs = self.split(output)
        return Sample(continuous[None], self.joint(probs).argmax(-1).expand(1, len(output)))

    def log_prob(self, output: Tensor, sample: Sample) -> Tensor:
        """Log-density of perturbations [M, B], up to a constant, differentiable in `output` [B, D + sum(choices)]."""
        continuous, probs = self.split(output)
        log_prob = -0.5 * ((sample.continuous - continuous) / self.sigma).square().sum(-1)
        if probs:
            log_prob = log_prob + self.joint(probs).gather(1, sample.choice.T).T.log()
        return log_prob

    def arguments(self, sample: Sample) -> list[Any]:
        """The M outputs as `cost_fn` takes them: [B, D], choices [B] or [B, d], or a pair of both."""
        table, arguments = to_numpy(self.combinations), []
        for continuous, choice in zip(to_numpy(sample.continuous), to_numpy(sample.choice), strict=True):
            picked: np.ndarray = table[choice, 0] if len(self.choices) == 1 else table[choice]
            both = (continuous, picked) if continuous.shape[1] else picked
            arguments.append(both if self.choices else continuous)
        return arguments
