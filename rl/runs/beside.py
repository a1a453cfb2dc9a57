"""The environments beside those that train: for evaluation, video and probes."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from costgrad.rl.errors import UserError
from costgrad.rl.factories import Factory, factory_of, vector_of

NO_OTHER = "env cannot be made again: pass eval_env=, a second environment, an id or a factory, to costgrad.train"


class Beside:
    """The environments beside those that train: for evaluation, video and probes.

    Args:
        make: of the environments that train, None where they cannot be made again.
        given: `eval_env` of `train`.
    """

    def __init__(self, make: Factory | None, given: Any = None) -> None:
        self.ready = None  # used itself, and not closed: it is the user's
        self.make = self.make_probes = make
        if given is not None:
            self.make = factory_of(given)
            self.ready = vector_of(given) if self.make is None else None
            self.make_probes = make or self.make

    @property
    def filmed(self) -> Factory | VectorEnv | None:
        """What a video is made in."""
        return self.make or self.ready

    def for_evaluation(self, num_envs: int, seed: int) -> VectorEnv | None:
        """Environments, None where there are none."""
        return self.ready or (self.make and self.make(num_envs=num_envs, seed=seed, render_mode=None))

    def for_probes(self, **arguments: Any) -> VectorEnv:
        """Fresh environments. Raises UserError where they cannot be made."""
        if self.make_probes is None:
            raise UserError(NO_OTHER)
        try:
            return self.make_probes(**arguments)
        except ValueError as error:  # the user's to mend, whichever library says so
            raise UserError(str(error)) from error
