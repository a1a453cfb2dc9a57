"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # What weighs, lasts and is remembered in a replay
    Mutant(
        "probe: entropy of every step, whatever n_step is",
        "rl/diagnostics/rewind.py",
        "t, n = self.t, self.estimand.n_step",
        "t, n = self.t, 1",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "sac: estimand without n_step",
        "agents/sac.py",
        "c.gamma, alpha, max_cost, c.n_step)",
        "c.gamma, alpha, max_cost)",
        "rl/diagnostics/probe",
    ),
    # Fidelity of C
    Mutant(
        "fidelity: the square of a noisy mean",
        "rl/diagnostics/fidelity.py",
        "((total**2).sum(-1) - (truth**2).sum((1, 2))) / (rounds * (rounds - 1))",
        "(total**2).sum(-1) / rounds**2",
        "rl/diagnostics/fidelity",
    ),
    Mutant(
        "fidelity: a difference over one step",
        "rl/diagnostics/probe.py",
        ".T / (2 * step)",
        ".T / step",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: up and down have different noise",
        "rl/diagnostics/probe.py",
        "self._roll_out(player, self.horizon, seed)",
        "self._roll_out(player, self.horizon, seed + len(found))",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: the clock is not stopped",
        "rl/diagnostics/rewind.py",
        "return None if stop is None else stop()",
        "return None",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: entropy past the end",
        "rl/diagnostics/rewind.py",
        "np.where(self.done[:t], 0.0, self.discount[:t])",
        "self.discount[:t]",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: entropy costs",
        "rl/diagnostics/rewind.py",
        "1.0) - self._entropy_bonus(), left",
        "1.0) + self._entropy_bonus(), left",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: termination forgotten",
        "rl/diagnostics/rewind.py",
        "self.estimand.gamma * ~step.terminated",
        "self.estimand.gamma * (step.terminated | True)",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: the policy's own first action",
        "rl/diagnostics/rewind.py",
        "if t == 0 and self.first is not None:",
        "if False:",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: the advantage of no policy",
        "rl/diagnostics/probe.py",
        "(costs * probs).sum(-1, keepdims=True)",
        "costs.mean(-1, keepdims=True)",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: the agent's own generator",
        "rl/runs/session.py",
        "found = probe(self.agent, self.beside.for_probes, seed=self.seed)",
        "found = (self.agent.acting.uniform(1), probe(self.agent, self.beside.for_probes, seed=self.seed))[1]",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: a reset is a step of the probe",
        "rl/diagnostics/probe.py",
        "self.steps += tick.step - self.reset_rows",
        "self.steps += tick.step",
        "rl/diagnostics/probe",
    ),
    Mutant(
        "fidelity: SAC's mean",
        "agents/sac.py",
        "c, max_cost = self.config, not self.codec.discrete",
        "c, max_cost = self.config, False",
        "rl/diagnostics/probe",
    ),
]
