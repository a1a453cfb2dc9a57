"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # An example of it
    Mutant(
        "controller: no dead time",
        "scripts/examples/controller.py",
        "valve[t - delay, rows]",
        "valve[t, rows]",
        "scripts/examples/controller",
    ),
    Mutant(
        "controller: a sensor without steps",
        "scripts/examples/controller.py",
        "np.round(level / STEP)",
        "level / STEP",
        "scripts/examples/controller",
    ),
    Mutant(
        "controller: no lag",
        "scripts/examples/controller.py",
        "np.exp(-1 / plants[:, 1])",
        "0 * plants[:, 1]",
        "scripts/examples/controller",
    ),
    Mutant(
        "controller: C is told nothing of the plant",
        "scripts/examples/controller.py",
        "context=known(batch)",
        "context=0 * known(batch)",
        "scripts/examples/controller",
    ),
]
