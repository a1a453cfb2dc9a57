"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # What a user's environment gets wrong
    Mutant(
        "workers die of Ctrl-C",
        "envs/child.py",
        'for name in ("SIGINT", "SIGHUP", "SIGUSR1"):',
        "for name in ():",
        "scripts/commands",
    ),
    Mutant(
        "what is printed is a result",
        "scripts/jobs.py",
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
        'args.env if "--env" in typed else None',
        "args.env",
        "scripts/commands",
    ),
    Mutant(
        "checkpoint: any space will do",
        "rl/agent_files.py",
        "if (here := getattr(agent.codec, key)) != there:",
        "if (here := there) != there:",
        "scripts/commands",
    ),
    # What is typed, and what a run may decide
    Mutant(
        "a run names the file that is run",
        "scripts/pick.py",
        "        if own:\n",
        "        if False:\n",
        "scripts/own_agents",
    ),
    Mutant(
        "an agent of that name is ours",
        "scripts/pick.py",
        "trained not in AGENTS or (",
        "trained not in AGENTS and (",
        "scripts/own_agents",
    ),
    Mutant(
        "a resumed run brings its own encoder",
        "scripts/train.py",
        '"encoder": None, "trust": False}',
        '"trust": False}',
        "scripts/own_agents",
    ),
    Mutant(
        "the last seed is left out", "scripts/flags.py", "range(first, last + 1)", "range(first, last)", "scripts/flags"
    ),
    Mutant(
        "1.5e0 is cut to 1",
        "scripts/flags.py",
        "int(number) if number.is_integer() else None",
        "int(number)",
        "scripts/flags",
    ),
    Mutant(
        "a user's package comes last",
        "envs/load.py",
        "    if first:\n        sys.path.insert",
        "    if False:\n        sys.path.insert",
        "envs/make",
    ),
    # Whether C can be trusted
    Mutant(
        "report: nothing beside",
        "scripts/reporting/plot.py",
        "row.env == task[0]]",
        "row.env == task]",
        "scripts/report",
    ),
    # What a run folder may decide
    Mutant(
        "a run folder runs what it names",
        "scripts/environment.py",
        "if (code := code_of(named)) and not trust:",
        "if (code := code_of(named)) and not trust and not code:",
        "scripts/trust",
    ),
    Mutant("a run trusts itself", "scripts/train.py", ', "trust": False}', "}", "scripts/trust"),
    Mutant(
        "arguments of a folder's reach the user's code",
        "scripts/environment.py",
        "and not (trust or is_signed(started))",
        "and False",
        "scripts/trust",
    ),
    Mutant(
        "a changed environment has been measured",
        "scripts/experiment.py",
        "if ran != now and ran is not None:",
        "if False:",
        "scripts/experiment",
    ),
    Mutant("a stale row stays", "scripts/jobs.py", "if row.key in stale:", "if False:", "scripts/experiment"),
    # How a run ends that does not end by itself
    Mutant("a signal ends with 130", "scripts/train.py", "128 + (result.signal or 0)", "130", "scripts/ends"),
    Mutant("a broken agent is saved", "rl/runs/session.py", "self.health.check(self.step)", "pass", "scripts/ends"),
    Mutant("a terminal that is gone ends in an error", "scripts/cli.py", "errno.EIO", "errno.ENOENT", "scripts/ends"),
]
