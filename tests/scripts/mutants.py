"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # What a user's environment gets wrong
    Mutant(
        "workers die of Ctrl-C",
        "envs/make.py",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "pass",
        "scripts/commands",
    ),
    Mutant(
        "what is printed is a result",
        "scripts/experiment.py",
        "if line.startswith(RESULT)]",
        "if line]",
        "scripts/experiment",
    ),
    Mutant(
        "evaluate insists on its number", "scripts/evaluate.py", "in (None, n):", "in (None, n, 4):", "scripts/commands"
    ),
    # REPPO
    Mutant(
        "train: a resumed run looks for its file where the user stands",
        "scripts/train.py",
        'started.get("env_argument", args.env)',
        "args.env",
        "scripts/commands",
    ),
    Mutant(
        "checkpoint: any space will do",
        "rl/checkpoint.py",
        "if (here := getattr(agent.codec, key)) != there:",
        "if (here := there) != there:",
        "scripts/commands",
    ),
    # Whether C can be trusted
    Mutant(
        "report: nothing beside",
        "scripts/reporting/plot.py",
        "row.env == task[0]]",
        "row.env == task]",
        "scripts/report",
    ),
]
