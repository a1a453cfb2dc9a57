"""The command `costgrad`: hands over to the script of that name."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {  # what is typed, and the module in costgrad.scripts
    "train": "train",
    "evaluate": "evaluate",
    "probe": "probe",
    "draw": "draw",
    "check-env": "check_env",
    "experiment": "experiment",
    "report": "report",
    "bench": "bench",
    "fidelity": "fidelity",
    "dimension": "dimension",
    "example-digits": "examples.digits",
    "example-jpeg": "examples.jpeg",
    "example-controller": "examples.controller",
}
USAGE = f"usage: costgrad {{{','.join(COMMANDS)}}} ... (each has --help); costgrad --version"


def main(argv: Sequence[str] | None = None) -> int:
    """Hands over to the script of that name; returns its exit code."""
    _leave_working_folder()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if arguments[:1] in (["-V"], ["--version"]):
        import costgrad

        print(f"costgrad {costgrad.__version__}")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        print(f"error: {_unknown(arguments)}; {USAGE}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"costgrad.scripts.{COMMANDS[arguments[0]]}")
    code: int = module.main(arguments[1:])
    return code


def _unknown(arguments: list[str]) -> str:
    if not arguments:
        return "no command given"
    near = difflib.get_close_matches(arguments[0].replace("_", "-"), COMMANDS, n=1)
    return f"unknown command {arguments[0]!r}" + (f" (did you mean {near[0]}?)" if near else "")


def _leave_working_folder() -> None:
    """`python -m` looks for modules in the working folder first: a file there would stand in for a library's."""
    here = os.path.realpath(os.getcwd())
    if sys.path and os.path.realpath(sys.path[0] or here) == here:
        del sys.path[0]


if __name__ == "__main__":
    raise SystemExit(main())
