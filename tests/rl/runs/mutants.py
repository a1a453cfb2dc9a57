"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # What a user's environment gets wrong
    Mutant("a background ignores the second Ctrl-C", "rl/runs/train.py", "== signal.SIG_IGN", "== 0", "rl/runs/train"),
]
