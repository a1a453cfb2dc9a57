"""C (the learned cost function), the training loop, evaluation, and the packages they use."""

from costgrad.rl.diagnostics.probe import probe
from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import evaluate
from costgrad.rl.networks.critic import Critic, CriticSpec
from costgrad.rl.runs.train import train

__all__ = ["Critic", "CriticSpec", "UserError", "evaluate", "probe", "train"]
