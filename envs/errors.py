"""The error that is the user's to mend."""


class EnvError(ValueError):
    """An environment that cannot be made, or does what no environment may.

    One line that names the thing, its value and what is allowed; the cause is chained where there is one.
    """
