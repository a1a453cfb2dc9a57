"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # What a user's environment gets wrong
    Mutant(
        "wrong obs pass",
        "envs/checked.py",
        'if wrong := _misfit(space, obs, "obs"):',
        "if wrong := None:",
        "envs/checked",
    ),
    Mutant("last obs is overwritten", "envs/checked.py", "if terminated or truncated:", "if False:", "envs/make"),
    Mutant(
        "ours taken for the user's",
        "envs/checked.py",
        "if missing or (frame is not None and _is_ours(frame)):",
        "if False:",
        "envs/checked",
    ),
    Mutant(
        "a line within a library",
        "envs/checked.py",
        "not frame.filename.startswith(_LIBRARIES) or _is_ours(frame)",
        "True",
        "envs/checked",
    ),
    Mutant(
        "workers keep a handler of SIGTERM",
        "envs/child.py",
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)",
        "pass",
        "envs/make",
    ),
    # What worker processes do when they fail
    Mutant(
        "who was asked is asked again",
        "envs/workers.py",
        "self._state = AsyncState.WAITING_STEP  # whoever",
        "pass  # whoever",
        "envs/make",
    ),
    Mutant(
        "a restarted row says nothing",
        "envs/workers.py",
        '{**info, "process_restarted": True}',
        "{**info}",
        "envs/workers",
    ),
    Mutant(
        "a restart repeats its first start",
        "envs/workers.py",
        "SeedSequence((source, i, count))",
        "SeedSequence((source, i))",
        "envs/workers",
    ),
    Mutant("restarts without end", "envs/workers.py", "if times == MOST_IN_A_ROW:", "if times == -1:", "envs/workers"),
    Mutant(
        "a worker outlives its parent", "envs/child.py", "while os.getppid() == parent:", "while True:", "envs/workers"
    ),
    Mutant("SIGTERM is all", "envs/workers.py", '("terminate", "kill")', '("terminate",)', "envs/workers"),
    Mutant(
        "numbers of another kind go unseen",
        "envs/checked.py",
        'not np.can_cast(dtype, space.dtype, "same_kind")',
        "not dtype",
        "envs/checked",
    ),
    Mutant(
        "a batch is not looked at",
        "envs/make.py",
        "env if _is_own(env) else",
        "env if True else",
        "envs/checked",
    ),
    Mutant(
        "an argument of the environment is lost",
        "envs/build.py",
        "guard(name, partial(target, **with_render_mode(target, name, kwargs, self.render_mode)))",
        "guard(name, target, **with_render_mode(target, name, kwargs, self.render_mode))",
        "envs/workers",
    ),
    Mutant("a limit is lost among **kwargs", "envs/build.py", "by_name=True)  # what", ")  # what", "envs/make"),
    Mutant(
        "the form of a batch goes unseen", "rl/loop.py", "        _check_form(n,", "        dict(n=n,", "envs/checked"
    ),
    Mutant(
        "an ending that is a number", "rl/loop.py", "value.dtype != np.bool_", "value.dtype == object", "envs/checked"
    ),
    # What a name may lead to, and whose it is
    Mutant(
        "what is imported is defined there",
        "envs/allowed.py",
        "_is_marked(target) or _defined_in",
        "True or _defined_in",
        "envs/allowed",
    ),
    Mutant("any class will do", "envs/allowed.py", "    if isinstance(target, type):", "    if False:", "envs/allowed"),
    Mutant(
        "Python's own modules have environments",
        "envs/load.py",
        "top in sys.stdlib_module_names",
        "False",
        "envs/allowed",
    ),
    Mutant("a key that others read", "envs/stamp.py", "found.st_mode & 0o077", "False", "envs/stamp"),
    Mutant("a signature for any purpose", "envs/stamp.py", " + name + data", " + data", "envs/stamp"),
    Mutant("the arguments are not signed", "envs/recipe.py", '"env_kwargs": kwargs, ', "", "scripts/trust"),
    Mutant(
        "a module of any folder",
        "envs/recipe.py",
        "return not (isinstance(path, str)",
        "return False and (isinstance(path, str)",
        "scripts/trust",
    ),
    # Environments that go on
    Mutant(
        "any pickle is opened",
        "envs/snapshot.py",
        "if not verify(PURPOSE,",
        "if False and not verify(",
        "envs/snapshot",
    ),
    Mutant(
        "every copy will do",
        "envs/snapshot.py",
        'return "" if _same(seen, again) else',
        'return "" if True else',
        "envs/snapshot",
    ),
    Mutant(
        "arguments of a constructor for a state",
        "envs/snapshot.py",
        "if isinstance(obj, EzPickle):",
        "if False:",
        "envs/snapshot",
    ),
    Mutant(
        "global random numbers are lost",
        "envs/snapshot.py",
        "    np.random.set_state(of_numpy)\n\n\n# Vector",
        "\n\n# Vector",
        "envs/snapshot",
    ),
]
