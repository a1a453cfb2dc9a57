"""Errors that the user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """Invalid input from outside the library: one line that names the thing, its value and what is allowed.

    Scripts print the line and exit with code 2; every other exception is a bug of the library and keeps its traceback.
    """


class Diverged(UserError):
    """Training diverged: losses or parameters are NaN or infinite. No checkpoint is saved."""


class WriteError(UserError):
    """The file system refuses to write: no permission, a full disk, a folder that was removed."""
