"""What a name leads to: an environment, or what is defined where the name says; all else is refused uncalled."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import pytest

from costgrad.envs import EnvError, make
from costgrad.envs.load import find

FILE = """
import functools, os, subprocess
from functools import partial
from os import system
from subprocess import getoutput, Popen

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

from costgrad import cost_function
from helper_of_test import helper, marked

class Config:
    pass

class Callable:
    low, high = -1.0, 1.0
    def __call__(self, x):
        return 0.0

class Factory:
    @classmethod
    def new(cls):
        return gymnasium.make("CartPole-v1")

def plain():
    return gymnasium.make("CartPole-v1")

@functools.lru_cache
def cached(x):
    return 0.0

def wrapped():
    @functools.wraps(plain)
    def inner():
        return plain()
    return inner

run_shell = partial(os.system, "touch canary")
run_popen = partial(Popen, ["touch", "canary"])
of_helper = partial(helper)
instance = Callable()
method = Factory.new
decorated = wrapped()
of_plain = partial(plain)
of_gymnasium = partial(gymnasium.make, "CartPole-v1")
short = lambda: plain()
"""
HELPER = """
from costgrad import cost_function

def helper():
    open("canary", "w").close()

@cost_function(low=-1.0, high=1.0)
def marked(x):
    return 0.0
"""
REFUSED = ["system", "getoutput", "Popen", "helper", "Config", "run_shell", "run_popen", "of_helper", "partial"]
TAKEN = ["CartPoleEnv", "plain", "method", "decorated", "of_plain", "of_gymnasium", "short", "instance", "marked"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "named_in_test.py").write_text(FILE)
    (tmp_path / "helper_of_test.py").write_text(HELPER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "named_in_test", raising=False)
    monkeypatch.delitem(sys.modules, "helper_of_test", raising=False)
    return tmp_path


@pytest.mark.parametrize("where", ["named_in_test", "named_in_test.py"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_environment_or_comes_from_elsewhere_is_refused(here: Path, where: str, name: str) -> None:
    with pytest.raises(EnvError, match=f"'{name}' in '{where}' is .*: it must be an Env class, or a factory or cost"):
        make(f"{where}:{name}", 1, env_kwargs={"command": "touch canary"})
    assert not (here / "canary").exists()


@pytest.mark.parametrize("name", TAKEN)
def test_environments_and_what_is_defined_there_are_taken(here: Path, name: str) -> None:
    env = make(f"named_in_test.py:{name}", 2)
    env.reset(seed=0)
    env.close()


def test_a_package_may_offer_what_its_modules_define(here: Path) -> None:
    (here / "offers_in_test").mkdir()
    (here / "offers_in_test" / "inner.py").write_text(
        "import gymnasium\ndef new(): return gymnasium.make('CartPole-v1')\n"
    )
    (here / "offers_in_test" / "__init__.py").write_text(
        "from offers_in_test.inner import new\nfrom os import system\n"
    )
    assert make("offers_in_test:new", 1).num_envs == 1
    with pytest.raises(EnvError, match=r"'system' in 'offers_in_test' is a builtin_function_or_method of (posix|nt):"):
        make("offers_in_test:system", 1)


@pytest.mark.parametrize("name", ["os:system", "os:popen", "subprocess:getoutput", "builtins:exec", "runpy:run_path"])
def test_pythons_own_modules_have_no_environments(here: Path, name: str) -> None:
    (here / "subprocess.py").write_text("def getoutput(): open('canary', 'w').close()")  # is not what would be called
    with pytest.raises(EnvError, match="is Python's own: it has no environment"):
        make(name, 1, env_kwargs={"cmd": "touch canary"})
    assert not (here / "canary").exists()


def test_a_users_module_may_have_the_name_of_one_of_pythons(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sndhdr", raising=False)
    (here / "sndhdr.py").write_text("import gymnasium\ndef new(): return gymnasium.make('CartPole-v1')\n")
    for _ in range(2):  # not yet imported, and then
        assert make("sndhdr:new", 1).num_envs == 1
    del sys.modules["sndhdr"]


def test_an_object_from_python_needs_no_place() -> None:
    assert find(gymnasium.make).target is gymnasium.make


@pytest.mark.parametrize("name", ["~nobody_of_test/x.py:Name", "c" * 5000 + ".py:Name", "a\0b.py:Name", "\ud800.py:N"])
def test_paths_that_no_file_has_are_one_line(name: str) -> None:
    with pytest.raises(EnvError, match="file '"):
        make(name, 1)
