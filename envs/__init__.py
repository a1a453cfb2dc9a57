"""Environments from any source as gymnasium VectorEnvs."""

from costgrad.envs.errors import EnvError
from costgrad.envs.make import MadeEnv, make
from costgrad.envs.tasks.black_box import BlackBoxEnv
from costgrad.envs.tasks.costs import cost_function
from costgrad.envs.tasks.known import register

__all__ = ["BlackBoxEnv", "EnvError", "MadeEnv", "cost_function", "make", "register"]
