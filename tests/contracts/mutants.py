"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # What the environment says
    Mutant(
        "images are kept as floats",
        "rl/observations.py",
        "np.uint8 if keep_uint8",
        "np.float32 if keep_uint8",
        "contracts/images",
    ),
    # Backpropagation by hand
    Mutant(
        "ppo: normaliser counts reset rows",
        "agents/ppo.py",
        "update(flat(rollout.obs), flat(rollout.valid))",
        "update(flat(rollout.obs))",
        "contracts/agents",
    ),
    Mutant(
        "ppo: state without its optimizer",
        "agents/ppo.py",
        '        self.parts["optimizer"] = self.optimizer\n',
        "",
        "contracts/agents",
    ),
    # REPPO
    Mutant(
        "reppo: state without its multipliers",
        "agents/reppo.py",
        '"multipliers": self.multipliers, ',
        "",
        "contracts/agents",
    ),
]
