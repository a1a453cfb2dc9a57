"""The error that the user can fix."""


class EnvError(ValueError):
    """An environment cannot be made, or violates the interface.

    One line that names the thing, its value and what is allowed; the cause is chained if there is one.
    """
