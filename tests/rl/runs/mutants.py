"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # Signals
    Mutant(
        "a background ignores the second Ctrl-C",
        "rl/runs/signals.py",
        "raise KeyboardInterrupt",
        "pass",
        "rl/runs/train",
    ),
    Mutant("a hanging step is waited for", "rl/runs/signals.py", "raise Interrupted", "pass", "rl/runs/signals"),
    Mutant(
        "an update is interrupted", "rl/runs/signals.py", 'co_name in ("step", "reset")', "co_name", "rl/runs/signals"
    ),
    Mutant("nohup is overruled", "rl/runs/signals.py", "or before[n] is signal.SIG_DFL", "or True", "rl/runs/signals"),
    Mutant("what hangs in C stays", "rl/runs/signals.py", "elif waits > 1:", "elif waits < 0:", "rl/runs/signals"),
    # Numbers that go wrong
    Mutant("absurd parameters pass", "rl/runs/health.py", "MOST = 1e5", "MOST = sys.float_info.max", "rl/runs/health"),
    Mutant(
        "moments are not looked at", "rl/runs/health.py", "optimizer.state_dict().items())", "())", "rl/runs/health"
    ),
    Mutant(
        "nobody is blamed",
        "rl/runs/health.py",
        "error).replace(RATES, self.extremes.blamed or RATES)",
        "error)",
        "rl/runs/health",
    ),
]
