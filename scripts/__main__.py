"""The command `costgrad`: train, evaluate, draw, probe, check-env."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {"train": "train", "evaluate": "evaluate", "draw": "draw", "probe": "probe", "check-env": "check_env"}
USAGE = f"usage: costgrad {{{','.join(COMMANDS)}}} ... (each has --help)"


def main(argv: Sequence[str] | None = None) -> int:
    """Hands over to the script of that name; returns its exit code."""
    _leave_working_folder()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        said = f"unknown command {arguments[0]!r}" if arguments else "no command given"
        print(f"error: {said}; {USAGE}", file=sys.stderr)
        return 2
    module = importlib.import_module(f".{COMMANDS[arguments[0]]}", __package__)
    code: int = module.main(arguments[1:])
    return code


def _leave_working_folder() -> None:
    """`python -m` looks for modules in the working folder first: a file named rl.py there would stand in for ours."""
    here, ours = os.path.realpath(os.getcwd()), os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir))
    if sys.path and os.path.realpath(sys.path[0] or here) == here != ours:
        del sys.path[0]


if __name__ == "__main__":
    raise SystemExit(main())
