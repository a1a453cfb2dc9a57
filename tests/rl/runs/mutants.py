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
    # Folders and disks
    Mutant("the newest checkpoints go", "rl/runs/keeping.py", "steps[:-keep]", "steps[keep:]", "rl/runs/folder"),
    Mutant("a later step counts", "rl/runs/keeping.py", " and n <= step)", ")", "rl/runs/folder"),
    Mutant(
        "another run's folder is taken", "rl/runs/folder.py", "if not self._lock.stands:", "if False:", "rl/runs/folder"
    ),
    Mutant(
        "a lost row stays lost",
        "rl/runs/table.py",
        "        self._is_whole = False\n        with",
        "        with",
        "rl/runs/folder",
    ),
    Mutant(
        "a full disk ends the run",
        "rl/runs/faults.py",
        "except WriteError as",
        "except ZeroDivisionError as",
        "rl/runs/folder",
    ),
    Mutant(
        "what was not saved is not said", "rl/runs/session.py", 'self.faults.open.get(LAST, "")', '""', "rl/runs/folder"
    ),
]
