"""Sabotages the code, one line at a time, and sees that the tests notice: `python tests/mutants.py`.

Every mutant replaces one piece of text, which must stand in its file exactly once, in a copy of the tree, and the
tests named beside it run there. Exit code 1 if a mutant survives, if its text is no longer found, or if the tests fail
already without any. `python tests/mutants.py WORD` runs those whose name holds WORD. The tree itself is not touched.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1"}  # before torch is loaded

import gymnasium.vector  # noqa: F401
import pytest
import torch  # noqa: F401

sys.dont_write_bytecode = True  # or a copy's stale code could be taken for its mutant's
ROOT = Path(__file__).resolve().parents[1]
COPIED = ("rl", "agents", "envs", "tests", "pyproject.toml")
WORKERS = 2


class Mutant(NamedTuple):
    name: str
    path: str
    old: str
    new: str
    tests: str  # files of tests/, without test_ and .py, likeliest first


MUTANTS = [
    # What the environment says
    Mutant("cost is reward", "rl/data.py", "return -reward", "return reward", "rollout"),
    Mutant(
        "truncation taken for termination",
        "rl/rollout.py",
        'self.gamma * (~kept["terminated"])',
        'self.gamma * (~(kept["terminated"] | kept["truncated"]))',
        "rollout",
    ),
    Mutant(
        "termination leaves the discount",
        "rl/rollout.py",
        'self.gamma * (~kept["terminated"])',
        'self.gamma * (kept["terminated"] | True)',
        "rollout",
    ),
    Mutant(
        "truncation does not cut",
        "rl/rollout.py",
        'done=kept["terminated"] | kept["truncated"]',
        'done=kept["terminated"]',
        "rollout",
    ),
    Mutant(
        "reset rows weigh in the rollout",
        "rl/rollout.py",
        'valid=kept["valid"]',
        'valid=kept["valid"].fill_(1)',
        "rollout",
    ),
    Mutant(
        "reset rows not masked by the loop",
        "rl/loop.py",
        "torch.from_numpy(~reset_row) if any_reset else everything",
        "everything",
        "loop",
    ),
    Mutant(
        "final_obs of SAME_STEP ignored",
        "rl/loop.py",
        "if any_done and mode == AutoresetMode.SAME_STEP:",
        "if False:",
        "loop",
    ),
    Mutant(
        "DISABLED resets everybody",
        "rl/loop.py",
        'env.reset(options={"reset_mask": done})',
        "env.reset()",
        "loop",
    ),
    Mutant(
        "numbers not checked",
        "rl/loop.py",
        "if math.isfinite(reward.sum()) and math.isfinite(obs.sum()):",
        "if True:",
        "loop",
    ),
    Mutant(
        "observations share the environment's memory",
        "rl/spaces.py",
        "np.array(obs, dtype=np.float32)",
        "np.asarray(obs, dtype=np.float32)",
        "loop spaces",
    ),
    Mutant(
        "low and high swapped",
        "rl/spaces.py",
        "low + (action + 1) * ((high - low) / 2)",
        "high + (action + 1) * ((low - high) / 2)",
        "spaces",
    ),
    # Returns
    Mutant(
        "trace not cut",
        "rl/returns.py",
        "discount.masked_fill(cut, 0.0).mul_(lambda_)",
        "discount.clone().mul_(lambda_)",
        "returns",
    ),
    Mutant(
        "gamma twice", "rl/returns.py", "(cost, discount - carry,", "(cost, discount * discount - carry,", "returns"
    ),
    Mutant("end of the rollout forgotten", "rl/returns.py", "carry[-1] = 0.0", "carry[-1] *= 1.0", "returns"),
    Mutant("advantage without its value", "rl/returns.py", "cut, lambda_) - value", "cut, lambda_)", "returns"),
    # Gradients
    Mutant(
        "C detached in the pathwise loss",
        "rl/gradient.py",
        "    return expected\n",
        "    return expected.detach()\n",
        "gradient",
    ),
    Mutant(
        "C detached in the control variate",
        "rl/gradient.py",
        "return expected + log_prob",
        "return expected.detach() + log_prob",
        "gradient",
    ),
    Mutant("residual's sign", "rl/gradient.py", "(returns - taken).detach()", "(taken - returns).detach()", "gradient"),
    Mutant("residual keeps its graph", "rl/gradient.py", "(returns - taken).detach()", "(returns - taken)", "gradient"),
    Mutant(
        "score's sign", "rl/gradient.py", "(returns - baseline).detach()", "(baseline - returns).detach()", "gradient"
    ),
    Mutant("expectation without a slope", "rl/gradient.py", "(pi.probs * ", "(pi.probs.detach() * ", "gradient"),
    Mutant(
        "control variate after C has seen the returns",
        "agents/a2c.py",
        'if self.config.actor_gradient == "pathwise":  #',
        'if self.config.actor_gradient != "score":  #',
        "a2c",
    ),
    Mutant(
        "entropy counted twice",
        "agents/a2c.py",
        "- self.config.entropy_coef * entropy",
        "- 2 * self.config.entropy_coef * entropy",
        "a2c",
    ),
    Mutant(
        "entropy's sign",
        "agents/a2c.py",
        "- self.config.entropy_coef * entropy",
        "+ self.config.entropy_coef * entropy",
        "a2c",
    ),
    # Actors
    Mutant("slope of tanh dropped", "rl/actor.py", "(gaussian - log_slope).sum(-1)", "(gaussian + 0).sum(-1)", "actor"),
    Mutant(
        "slope of tanh added",
        "rl/actor.py",
        "(gaussian - log_slope).sum(-1)",
        "(gaussian + log_slope).sum(-1)",
        "actor",
    ),
    Mutant("Gumbel noise upside down", "rl/actor.py", ".log_().neg_()", ".log_()", "actor"),
    Mutant(
        "global random state",
        "rl/actor.py",
        "torch.randn(*batch, self.actions, generator=generator,",
        "torch.randn(*batch, self.actions,",
        "actor",
    ),
    Mutant(
        "predict draws from training's generator",
        "agents/a2c.py",
        "generator=self.predict_generator)",
        "generator=self.generator)",
        "a2c",
    ),
    # C
    Mutant("HL-Gauss sigma", "rl/heads.py", "0.75 * self.width * math.sqrt(2)", "0.75 * self.width", "heads"),
    Mutant(
        "scale too small", "rl/heads.py", "self.scale.fill_(1.25 * needed)", "self.scale.fill_(needed / 4)", "heads"
    ),
    Mutant(
        "last layer not rescaled",
        "rl/critic.py",
        "parameter.copy_(value.flatten(-2))",
        "parameter.copy_(parameter)",
        "critic",
    ),
    Mutant(
        "C takes box actions in the agent's units",
        "rl/critic.py",
        "to_agent(action.reshape(len(x), -1), self.low, self.high)",
        "action.reshape(len(x), -1)",
        "critic",
    ),
    Mutant("C ignores where actions start", "rl/critic.py", "action - self.spec.action_start", "action - 0", "critic"),
    # Normalisation and optimisers
    Mutant(
        "normaliser updated before its use",
        "agents/a2c.py",
        "row = self._targets(rollout)",
        "self.critic.obs_norm.update(rollout.obs.flatten(0, 1)); row = self._targets(rollout)",
        "a2c",
    ),
    Mutant(
        "normaliser counts reset rows",
        "agents/a2c.py",
        "update(rollout.obs.flatten(0, 1), rollout.valid.flatten())",
        "update(rollout.obs.flatten(0, 1))",
        "a2c",
    ),
    Mutant("images pooled over channels", "rl/norm.py", "i != channel_axis", "i == channel_axis", "norm"),
    Mutant("variance forgets how means differ", "rl/norm.py", "+ delta**2 *", "+ 0 * delta**2 *", "norm"),
    Mutant("clip ignored", "rl/optim.py", "if self.clip_norm:", "if False:", "optim"),
    Mutant("penalties on biases", "rl/optim.py", 'float("weights." in name)', "1.0", "optim"),
    Mutant("decay ignored", "rl/optim.py", "max(0.0, 1 - step / self.decay_steps)", "1.0", "optim"),
    Mutant("optimiser's memory not loaded", "rl/optim.py", 'value.copy_(tensors[f"{name}.{key}"])', "pass", "optim"),
]


def run_tests(tests: str, mutant: Mutant | None = None) -> str:
    """Runs test files in a copy of the tree, sabotaged or not; to be called in a process of its own.

    Args:
        tests: names, separated by blanks.
        mutant: the sabotage.

    Returns:
        "passed", "failed" followed by pytest's last lines, or what is wrong with the mutant.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, folder)
        if mutant:
            file = Path(folder, mutant.path)
            original = file.read_text()
            if (found := original.count(mutant.old)) != 1:
                return f"STALE: its text stands {found} times in {mutant.path}"
            file.write_text(original.replace(mutant.old, mutant.new))
        os.chdir(folder)
        sys.path.insert(0, folder)
        files = [f"tests/test_{name}.py" for name in tests.split()]
        with redirect_stdout(StringIO()) as output:
            code = pytest.main(["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *files])
        os.chdir(ROOT)
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return "passed" if code == 0 else "failed\n" + output.getvalue()[-1500:]
    return f"BROKEN: pytest ended with {code}\n{output.getvalue()[-1500:]}"


def main() -> int:
    """Prints a line a mutant; 0 if every one was killed."""
    wanted = [mutant for mutant in MUTANTS if all(word in mutant.name for word in sys.argv[1:])]
    started, survived = time.monotonic(), 0
    # Each job is a fork of this process, which has the libraries loaded and none of our own code.
    with get_context("fork").Pool(WORKERS, maxtasksperchild=1) as pool:
        # Tests that fail anyway would kill every mutant.
        for result in pool.imap(run_tests, sorted({mutant.tests for mutant in wanted})):
            if result != "passed":
                print(f"The tests fail without any sabotage: {result}")
                return 1
        jobs = [pool.apply_async(run_tests, (mutant.tests, mutant)) for mutant in wanted]
        for mutant, job in zip(wanted, jobs, strict=True):
            result = job.get()
            killed = result.startswith("failed")
            survived += not killed
            word = "killed" if killed else "SURVIVED" if result == "passed" else result
            print(f"{word:<10} {mutant.name}  ({mutant.path})", flush=True)
    print(f"{len(wanted) - survived} of {len(wanted)} killed in {time.monotonic() - started:.0f} s")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
