"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # Search without gradients
    Mutant(
        "search: reset rows cost",
        "rl/evolution/population.py",
        "np.where(step.valid, cost_of(step.reward), 0.0)",
        "cost_of(step.reward)",
        "rl/evolution/population",
    ),
    Mutant(
        "search: a candidate takes over amid an episode",
        "rl/evolution/population.py",
        "self._fresh & (self._playing == RESTS)",
        "self._playing == RESTS",
        "rl/evolution/population",
    ),
    Mutant(
        "search: what rests is counted",
        "rl/evolution/population.py",
        "if (k := self._playing[i]) != RESTS:",
        "if (k := self._playing[i]) >= RESTS:",
        "rl/evolution/population",
    ),
    Mutant(
        "search: an episode inherits the cost before it",
        "rl/evolution/population.py",
        "            self._going[i] = 0.0",
        "            pass",
        "rl/evolution/population",
    ),
    Mutant(
        "search: the clock ends no candidate's episode",
        "rl/evolution/population.py",
        "(step.terminated | step.truncated) & step.valid",
        "step.terminated & step.valid",
        "rl/evolution/population",
    ),
    Mutant(
        "search: candidates keep their seats at a fresh begin",
        "rl/evolution/population.py",
        "        self._seat(0)\n        self._enqueue()",
        "        self._enqueue()",
        "rl/evolution/population",
    ),
    Mutant(
        "search: pairs on one side",
        "rl/evolution/search.py",
        "np.concatenate((center + step, center - step))",
        "np.concatenate((center + step, center + step))",
        "rl/evolution/search",
    ),
    Mutant(
        "search: ranks upside down",
        "rl/evolution/search.py",
        "place / max(len(cost) - 1, 1) - 0.5",
        "0.5 - place / max(len(cost) - 1, 1)",
        "rl/evolution/search",
    ),
    Mutant(
        "search: the dearest pairs count",
        "rl/evolution/search.py",
        "np.argsort(np.minimum(plus, minus)",
        "np.argsort(np.maximum(plus, minus)",
        "rl/evolution/search",
    ),
    Mutant(
        "search: guided noise too short",
        "rl/evolution/search.py",
        "(1 - share) * len(basis) / basis.shape[1]",
        "(1 - share) / basis.shape[1]",
        "rl/evolution/search",
    ),
    Mutant(
        "search: statistics move amid a generation",
        "rl/evolution/policies.py",
        "self.seen.update(obs, valid)",
        "self.seen.update(obs, valid), self.renew()",
        "rl/evolution/population",
    ),
    Mutant(
        "search: rows act by the first one's parameters",
        "rl/evolution/policies.py",
        "rows[:, start:end].reshape(len(rows)",
        "rows[:, start:end][:1].repeat(len(rows), 0).reshape(len(rows)",
        "rl/evolution/policies",
    ),
]
