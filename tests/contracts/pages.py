"""The pages of the documentation, and what they name: commands, flags, files, imports, links."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

from costgrad.__main__ import COMMANDS
from costgrad.agents import AGENTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"))
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)
BENCHES = ("envs", "threshold", "device")  # second words of `bench` that have flags of their own


def read(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(text: str, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def files(text: str) -> dict[str, str]:
    """Python blocks that begin with a comment that names a file."""
    found = (re.match(r"# (\w+\.py)\n(.*)", code, re.S) for code in blocks(text, "python"))
    return {match[1]: match[2] for match in found if match}


def code_spans(text: str) -> list[str]:
    """What stands between backticks in a line of prose, or is broken over two."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


def lines(block: str) -> Iterator[str]:
    """Commands of a shell block, each with its continuation lines and with quotes that go over several."""
    rest = block.replace("\\\n", " ")
    while rest:
        command, _, rest = rest.partition("\n")
        while rest and len(re.findall(r"(?<!\\)'", command)) % 2:
            more, _, rest = rest.partition("\n")
            command += " " + more
        yield command


def commands(text: str) -> list[list[str]]:
    """Every `costgrad NAME ...` of a page, in words: from its shell blocks, and from code in its prose."""
    typed = [line for block in blocks(text, "sh") for line in lines(block)] + code_spans(text)
    found = []
    for line in typed:
        if re.search(r"(?:^|[{;] )costgrad ", line):
            words = shlex.split(line[line.index("costgrad ") :].rstrip(" ;}…."), comments=True)
            found.append(words[1:])
    return found


@cache
def flags_of(*command: str) -> frozenset[str]:
    """The flags that `costgrad COMMAND --help` lists."""
    module = importlib.import_module(f"costgrad.scripts.{COMMANDS[command[0]]}")
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        module.main([*command[1:], "--help"])
    return frozenset(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", said.getvalue()))


def flags_for(words: list[str]) -> frozenset[str]:
    """The flags that a command takes as it is typed: those of an agent depend on which, those of bench on its part."""
    name, more = words[0], list[str]()
    agent = words[words.index("--agent") + 1] if "--agent" in words[:-1] else ""
    if name == "train" and agent in AGENTS:
        more = ["--agent", agent]
    elif name == "bench" and words[1:2] and words[1] in BENCHES:
        more = [words[1]]
    return flags_of(name, *more)


@cache
def all_flags() -> frozenset[str]:
    """Of every command and every agent."""
    named = [flags_of(name) for name in COMMANDS] + [flags_of("bench", part) for part in BENCHES]
    return frozenset().union(*named, *(flags_of("train", "--agent", agent) for agent in AGENTS))


def settings() -> set[str]:
    """The settings of every agent, and the number of environments, which presets and variants set too."""
    return {field.name for _, config in AGENTS.values() for field in fields(config)} | {"num_envs"}


def imports(code: str) -> Iterator[tuple[str, str]]:
    """Module and name of everything that is imported from costgrad."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "costgrad":
            yield from ((str(node.module), alias.name) for alias in node.names)


def anchors(text: str) -> set[str]:
    """The names under which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.M)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings)
    return {heading.strip().lower().replace(" ", "-") for heading in plain}
