"""Environments of any origin as one kind of object: a gymnasium VectorEnv."""

from envs.black_box import BlackBoxEnv
from envs.costs import cost_function
from envs.errors import EnvError
from envs.known import register
from envs.make import MadeEnv, make

__all__ = ["BlackBoxEnv", "EnvError", "MadeEnv", "cost_function", "make", "register"]
