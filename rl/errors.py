"""The error that is the user's to mend."""

from __future__ import annotations


class UserError(ValueError):
    """Something outside the library is wrong: one line that names the thing, its value and what is allowed.

    Scripts print the line and exit with code 2; every other exception is a defect of ours and keeps its traceback.
    """


class Diverged(UserError):
    """An agent's numbers are no numbers any more: settings are to blame, and nothing of it is worth saving."""
