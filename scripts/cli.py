"""What the commands share: flags from dataclasses, one line for an error, how to call them again."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import tyro

from costgrad.envs.errors import EnvError
from costgrad.rl.errors import UserError
from costgrad.rl.runs.faults import RunWarning
from costgrad.rl.spaces import device_of
from costgrad.scripts.flags import flags_of, tidied

T = TypeVar("T")
Device = Literal["auto", "cpu", "cuda"]


def guarded(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None) -> int:
    """Runs a command; what is the user's to mend becomes one line on stderr and exit code 2.

    Args:
        command: takes the arguments, returns the exit code.
        argv: the arguments without the program's name, None for those of this process.
    """
    _leave_own_folder()
    try:
        with _notes():
            return command(sys.argv[1:] if argv is None else argv)
    except (UserError, EnvError) as error:
        print(f"error: {_one_plain_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, `head` for instance, has had enough
        if not _is_closed(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more when it ends
        return 141


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Prints what is called otherwise now, or what a run lacks, as a line on stderr, and leaves other warnings."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("default", FutureWarning)
            warnings.simplefilter("always", RunWarning)
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, FutureWarning | RunWarning):
                note(str(message))
            else:
                plain(message, category, *where, **more)

        warnings.showwarning = show
        yield


def note(text: str) -> None:
    """A line on stderr that is no error."""
    print(f"note: {_one_plain_line(text)}", file=sys.stderr)


def _one_plain_line(text: str) -> str:
    """Without line breaks and colours; other control characters, which a terminal would obey, are written out."""
    line = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", line)


def print_if_heard(text: str) -> None:
    """Prints; where the terminal is gone (SIGHUP), nothing, and Python does not complain when it ends."""
    try:
        print(text, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _leave_own_folder() -> None:
    """Python puts the folder of a script first on the path: its files would stand in for a user's of the same name."""
    here = Path(__file__).resolve().parent
    sys.path[:1] = [path for path in sys.path[:1] if not Path(path).resolve().is_relative_to(here)]


def _is_closed(stream: Any) -> bool:
    """Whether nobody reads what is written to it."""
    try:
        print(file=stream, flush=True)
    except BrokenPipeError:
        return True
    return False


def parse(cls: Any, argv: Sequence[str], name: str, description: str, default: Any = None) -> Any:
    """Reads flags into a dataclass.

    Args:
        cls: the dataclass; the strings behind its fields are the help text.
        argv: the arguments.
        name: of the script.
        description: for --help.
        default: an instance that holds the defaults.
    Raises:
        UserError: a flag or a value is wrong.
        SystemExit: --help was asked for.
    """
    words, renamed = tidied(argv, flags_of(cls, default))
    for line in renamed:
        note(line)
    said = io.StringIO()
    more = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(cls, args=words, prog=invocation(name), description=description, **more)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_first_message(said.getvalue())) from stop


def _first_message(boxed: str) -> str:
    """The first thing that a box of tyro's says, as one line; behind it the flag that may have been meant.

    The box is drawn with lines, its title in the upper one, or where the terminal has none with dashes, under a title.
    """
    parts: list[list[str]] = [[]]
    for raw in boxed.splitlines():
        line = raw.strip(" │")
        if line.startswith(("╭", "╰")) or not line:
            continue
        if not line.strip("─-"):
            parts.append([])
        else:
            parts[-1].append(line)
    if "╭" not in boxed:
        del parts[0]
    message = " ".join(parts[0]) if parts else "the flags are wrong"
    if lacking := re.fullmatch(r"Missing from (.+?): (?:STR |INT )?(.*)", message):
        return f"missing: {lacking[2].replace(' (required)', '').rstrip('.')} ({lacking[1]} --help shows all)"
    hints = [line.split()[0].rstrip(",") for part in parts[1:] for line in part if line.startswith("--")]
    return message + (f" (did you mean {hints[0]}?)" if hints and message.startswith("Unrecognized") else "")


def invocation(name: str) -> str:
    """How a person calls script `name`, or `examples/name`, again, from the folder they are in.

    A script that was run as a file is called as a file again; otherwise it is a sub-command of `costgrad`.
    """
    folder, typed = Path(__file__).parent.resolve(), Path(sys.argv[0])
    if typed.suffix != ".py" or not typed.resolve().is_relative_to(folder) or typed.stem == "__main__":
        return f"{beside_python('costgrad')} {name.replace('examples/', 'example-').replace('_', '-')}"
    python = Path(sys.executable)
    inside = python.is_relative_to(Path.cwd())
    found = shutil.which("python")
    same = found is not None and Path(found).parent == python.parent
    script = shlex.quote(os.path.relpath(folder / f"{name}.py"))
    return f"{python.relative_to(Path.cwd()) if inside else 'python' if same else python} {script}"


def beside_python(program: str) -> str:
    """How a person calls a program that is installed with this Python."""
    path = Path(sys.executable).with_name(program)
    inside = path.is_file() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd())) if inside else program


def choose_device(wanted: str, config: Any) -> tuple[str, str]:
    """The device, and a line that says why.

    A GPU pays from networks on that are wide enough to keep it busy; narrow ones spend their time launching kernels.
    `scripts/bench.py device` measures where: on an H200 between 256 and 512, for PPO, SAC and CrossQ.

    Raises:
        UserError: "cuda" where there is none.
    """
    if wanted != "auto":
        return str(device_of(wanted)), f"device {wanted}: as asked"
    if not torch.cuda.is_available():
        return "cpu", "device cpu: torch finds no GPU"
    widest = max(getattr(config, "hidden", (0,)), default=0)
    if widest < 512:
        return "cpu", f"device cpu: networks {widest} wide are faster on it than on a GPU (--device cuda insists)"
    return "cuda", f"device cuda: networks {widest} wide"


def use_threads(threads: int) -> str:
    """Sets torch's threads; returns a line that says so. Raises UserError below 1."""
    if threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
    return f"threads {threads}" + (
        ": more would slow small networks down (--threads changes it)" if threads == 1 else ""
    )
