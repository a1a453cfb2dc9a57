"""C, the training loop, evaluation, and the rooms they stand on."""

from rl.critic import Critic, CriticSpec
from rl.errors import UserError
from rl.evaluate import evaluate
from rl.probe import probe
from rl.train import train

__all__ = ["Critic", "CriticSpec", "UserError", "evaluate", "probe", "train"]
