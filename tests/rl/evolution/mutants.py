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
        "search: a candidate starts within an episode",
        "rl/evolution/population.py",
        "self._starts & (self._playing == IDLE)",
        "self._playing == IDLE",
        "rl/evolution/population",
    ),
    Mutant(
        "search: idle environments are counted",
        "rl/evolution/population.py",
        "if (k := self._playing[i]) != IDLE:",
        "if (k := self._playing[i]) >= IDLE:",
        "rl/evolution/population",
    ),
    Mutant(
        "search: an episode inherits the cost of the one before",
        "rl/evolution/population.py",
        "            self._episode_cost[i] = 0.0",
        "            pass",
        "rl/evolution/population",
    ),
    Mutant(
        "search: truncation ends no candidate's episode",
        "rl/evolution/population.py",
        "(step.terminated | step.truncated) & step.valid",
        "step.terminated & step.valid",
        "rl/evolution/population",
    ),
    Mutant(
        "search: candidates keep their environments after a reset",
        "rl/evolution/population.py",
        "        self._allocate(0)\n        self._enqueue()",
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
        "rank / max(len(cost) - 1, 1) - 0.5",
        "0.5 - rank / max(len(cost) - 1, 1)",
        "rl/evolution/search",
    ),
    Mutant(
        "search: the costliest pairs count",
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
        "search: statistics change within a generation",
        "rl/evolution/policies.py",
        "self.next_norm.update(obs, valid)",
        "self.next_norm.update(obs, valid), self.renew_norm()",
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
