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
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1"}  # before torch is loaded

import gymnasium.vector  # noqa: F401
import pytest
import torch  # noqa: F401

sys.dont_write_bytecode = True  # or a copy's stale code could be taken for its mutant's
ROOT = Path(__file__).resolve().parents[1]
COPIED = ("rl", "agents", "envs", "scripts", "tests", "pyproject.toml")
WORKERS = 2


class Mutant(NamedTuple):
    name: str
    path: str
    old: str
    new: str
    tests: str  # files of tests/, without test_ and .py, likeliest first


SEQUENCE = "[int(state) for state in np.random.SeedSequence(seed).generate_state(count, np.uint64)]"
MUTANTS = [
    # How nets start
    Mutant(
        "uniform weights too narrow", "rl/nets.py", "most = max(fan_in, 1) ** -0.5", "most = 1 / max(fan_in, 1)", "nets"
    ),
    Mutant(
        "no uniform biases", "rl/nets.py", "for parameter in (weight, bias):", "for parameter in (weight,):", "nets"
    ),
    Mutant(
        "critics start alike",
        "rl/nets.py",
        "for member in weight:",
        "for member in weight[:1].expand_as(weight):",
        "nets",
    ),
    Mutant("td3 forgets init", "agents/td3.py", "c.noise, start, c.init)", "c.noise, start)", "nets"),
    Mutant("sac forgets init", "agents/sac.py", "state_std=True, init=c.init)", "state_std=True)", "nets"),
    Mutant("critic forgets its init", "rl/critic.py", '"init": spec.init}', '"init": "orthogonal"}', "nets"),
    # What a user's environment gets wrong
    Mutant(
        "wrong obs pass",
        "envs/checked.py",
        'if wrong := _misfit(space, obs, "obs"):',
        "if wrong := None:",
        "checked",
    ),
    Mutant(
        "last obs is overwritten",
        "envs/checked.py",
        "if terminated or truncated:",
        "if False:",
        "make",
    ),
    Mutant(
        "ours taken for the user's",
        "envs/checked.py",
        "if missing or (place is not None and _is_ours(place)):",
        "if False:",
        "checked",
    ),
    Mutant(
        "a line within a library",
        "envs/checked.py",
        "not frame.filename.startswith(_LIBRARIES) or _is_ours(frame)",
        "True",
        "checked",
    ),
    Mutant("a worker's log stays", "envs/make.py", "logger.ERROR + 1", "logger.min_level", "checked"),
    Mutant("workers die of Ctrl-C", "envs/make.py", "signal.signal(signal.SIGINT, signal.SIG_IGN)", "pass", "scripts"),
    Mutant("who was asked is asked again", "envs/make.py", "self._state = AsyncState.WAITING_STEP", "pass", "make"),
    Mutant(
        "workers keep a handler of SIGTERM",
        "envs/make.py",
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)",
        "pass",
        "make",
    ),
    Mutant("a background ignores the second Ctrl-C", "rl/train.py", "== signal.SIG_IGN", "== 0", "train_run"),
    Mutant(
        "numbers of another kind go unseen",
        "envs/checked.py",
        'not np.can_cast(dtype, space.dtype, "same_kind")',
        "not dtype",
        "checked",
    ),
    Mutant(
        "a batch is not looked at", "envs/make.py", "env if own or isinstance", "env if True or isinstance", "checked"
    ),
    Mutant(
        "a dead process goes unseen",
        "envs/make.py",
        "except (EOFError, ConnectionError)",
        "except LookupError",
        "checked",
    ),
    Mutant("a limit is lost among **kwargs", "envs/build.py", "by_name=True)  # what", ")  # what", "make"),
    Mutant("a blind evaluation", "rl/evaluate.py", "        _check_finite(obs, wanted)\n", "", "evaluate"),
    Mutant(
        "what is printed is a result", "scripts/experiment.py", "if line.startswith(RESULT)]", "if line]", "experiment"
    ),
    Mutant("evaluate insists on its number", "scripts/evaluate.py", "in (None, n):", "in (None, n, 4):", "scripts"),
    Mutant("the form of a batch goes unseen", "rl/loop.py", "        _check_form(n,", "        dict(n=n,", "checked"),
    Mutant("an ending that is a number", "rl/loop.py", "value.dtype != np.bool_", "value.dtype == object", "checked"),
    # What the environment says
    Mutant("cost is reward", "rl/data.py", "return -reward", "return reward", "rollout"),
    Mutant(
        "truncation taken for termination",
        "rl/rollout.py",
        'self.gamma * ~kept["terminated"]',
        'self.gamma * ~(kept["terminated"] | kept["truncated"])',
        "rollout",
    ),
    Mutant(
        "termination leaves the discount",
        "rl/rollout.py",
        'self.gamma * ~kept["terminated"]',
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
        'valid=np.ones_like(kept["valid"])',
        "rollout",
    ),
    Mutant(
        "reset rows not masked by the loop",
        "rl/loop.py",
        "~reset_row if any_reset else everything",
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
        "if abs(reward.sum()) < _LARGEST and math.isfinite(obs.sum()):",
        "if True:",
        "loop",
    ),
    Mutant(
        "observations share the environment's memory",
        "rl/observations.py",
        "np.array(obs, dtype=np.uint8",
        "np.asarray(obs, dtype=np.uint8",
        "loop spaces",
    ),
    Mutant("images are kept as floats", "rl/observations.py", "np.uint8 if stays", "np.float32 if stays", "images"),
    Mutant(
        "all is kept as bytes",
        "rl/observations.py",
        "self._bytes and getattr",
        "True or getattr",
        "spaces",
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
        "discount * ~cut * lambda_",
        "discount * lambda_",
        "returns",
    ),
    Mutant("gamma twice", "rl/returns.py", "(discount - carry) *", "(discount * discount - carry) *", "returns"),
    Mutant("end of the rollout forgotten", "rl/returns.py", "carry[-1] = 0.0", "carry[-1] *= 1.0", "returns"),
    Mutant("advantage without its value", "rl/returns.py", "cut, lambda_) - value", "cut, lambda_)", "returns"),
    Mutant(
        "returns written over the costs",
        "rl/returns.py",
        "returns = cost + (",
        "returns = cost; returns += (",
        "returns",
    ),
    Mutant("advantage's sign", "agents/a2c.py", "advantage = returns - value", "advantage = value - returns", "a2c"),
    Mutant("before and after swapped", "agents/a2c.py", "value, next_value = host", "next_value, value = host", "a2c"),
    Mutant(
        "reset rows weigh in the advantage's size",
        "agents/a2c.py",
        "(advantage * advantage * weight).sum()",
        "(advantage * advantage).mean()",
        "a2c agents",
    ),
    Mutant("the advantage's size forgets", "agents/a2c.py", "(0.05 if self.updates else 1.0)", "1.0", "a2c"),
    Mutant(
        "reset rows weigh in the actor's loss",
        "agents/a2c.py",
        "unit = row.weight / (",
        "unit = torch.full_like(row.weight, 1 / len(row.weight)) / (",
        "a2c agents",
    ),
    Mutant(
        "reset rows weigh in C's loss",
        "rl/critic.py",
        "return self.losses(x, action, target, masks) @ weight",
        "return self.losses(x, action, target, masks).mean()",
        "critic",
    ),
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
    Mutant(
        "residual's sign", "rl/gradient.py", "log_prob * (returns - taken)", "log_prob * (taken - returns)", "gradient"
    ),
    Mutant(
        "residual keeps its graph",
        "rl/gradient.py",
        "with torch.no_grad():\n        taken",
        "with torch.enable_grad():\n        taken",
        "gradient",
    ),
    Mutant("score's sign", "rl/gradient.py", "return log_prob * advantage", "return -log_prob * advantage", "gradient"),
    Mutant(
        "expectation without a slope",
        "rl/gradient.py",
        "return (listed_probs(critic, pi) * _action_costs",
        "return (listed_probs(critic, pi).detach() * _action_costs",
        "gradient",
    ),
    Mutant(
        "control variate's expectation without a slope",
        "rl/gradient.py",
        "(listed_probs(critic, pi) * cost)",
        "(listed_probs(critic, pi).detach() * cost)",
        "gradient",
    ),
    Mutant(
        "discrete actions carry C's graph",
        "rl/gradient.py",
        "@torch.no_grad()\ndef _action_costs",
        "def _action_costs",
        "gradient",
    ),
    Mutant(
        "the likeliest action for the one taken",
        "rl/gradient.py",
        "critic.index(action).unsqueeze",
        "critic.index(pi.mode()).unsqueeze",
        "gradient",
    ),
    Mutant("log-probability's sign", "rl/policy.py", "-F.nll_loss(", "F.nll_loss(", "actor"),
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
        "- self.config.entropy_coef * (pi",
        "- 2 * self.config.entropy_coef * (pi",
        "a2c",
    ),
    Mutant(
        "entropy's sign",
        "agents/a2c.py",
        "- self.config.entropy_coef * (pi",
        "+ self.config.entropy_coef * (pi",
        "a2c",
    ),
    # Actors
    Mutant(
        "slope of tanh dropped",
        "rl/policy.py",
        "torch.add(surprise, log_slope, alpha=4.0)",
        "torch.add(surprise, 0.0)",
        "actor",
    ),
    Mutant(
        "slope of tanh added",
        "rl/policy.py",
        "torch.add(surprise, log_slope, alpha=4.0)",
        "(gaussian + log_slope).sum(-1)",
        "actor",
    ),
    Mutant(
        "Gumbel noise upside down",
        "rl/actor.py",
        "generator=generator).log_().neg_()",
        "generator=generator).log_()",
        "actor",
    ),
    Mutant(
        "global random state",
        "rl/actor.py",
        "torch.randn(*shape, generator=generator,",
        "torch.randn(*shape,",
        "actor",
    ),
    Mutant(
        "predict draws from training's generator",
        "rl/acting.py",
        "generator=self.predict_generator)",
        "generator=self.generator)",
        "a2c agents",
    ),
    Mutant("one seed and the next share streams", "rl/seeds.py", SEQUENCE, "[seed + i for i in range(count)]", "seeds"),
    Mutant("every stream is the same", "rl/seeds.py", SEQUENCE, "[seed * 10**6] * count", "seeds"),
    Mutant("playing goes on with training's stream", "rl/acting.py", "spread(seed, 2)", "(seed, seed)", "seeds"),
    Mutant("noise grows by its past", "rl/acting.py", "fresh * normal[t]", "normal[t]", "acting"),
    Mutant(
        "noise of a rollout begins anew", "rl/acting.py", "self._last if t == 0 else", "None if t == 0 else", "acting"
    ),
    Mutant(
        "noise of other episodes goes on",
        "rl/acting.py",
        "None\n\n    def explore",
        "self._last\n\n    def explore",
        "acting",
    ),
    Mutant(
        "discrete actions take normal noise",
        "rl/actor.py",
        "host(torch.special.log_ndtr(torch.from_numpy(normal)).neg_().log_().neg_())",
        "normal",
        "acting",
    ),
    Mutant("one noise for the whole rollout", "rl/acting.py", "self._noise[t])", "self._noise[0])", "acting host"),
    # Acting on the host
    Mutant("no layer norm on the host", "rl/host.py", "x = _normalized(x) * gain", "x = x * gain", "host"),
    Mutant("no gain on the host", "rl/host.py", "_normalized(x) * gain + shift", "_normalized(x) + shift", "host"),
    Mutant(
        "no clip on the host",
        "rl/host.py",
        "np.minimum(np.maximum((obs - center) * scale, -clip), clip)",
        "(obs - center) * scale",
        "host",
    ),
    Mutant("no normaliser on the host", "rl/host.py", "if self._norm is not None:", "if False:", "host"),
    Mutant(
        "activation after the last layer",
        "rl/host.py",
        "return x @ weight + bias",
        "return np.tanh(x @ weight + bias)",
        "host",
    ),
    Mutant("silu is a sigmoid on the host", "rl/host.py", "x / (1 + np.exp(-x))", "1 / (1 + np.exp(-x))", "host"),
    Mutant(
        "variance round zero on the host", "rl/host.py", "x = x - np.add.reduce", "x = x - 0 * np.add.reduce", "host"
    ),
    Mutant("the host keeps old weights", "rl/host.py", "(host(w), host(b))", "(host(w).copy(), host(b))", "host"),
    Mutant(
        "the host keeps old statistics", "rl/host.py", "(host(norm.center), ", "(host(norm.center).copy(), ", "host"
    ),
    Mutant("a copy's weights are nobody's", "rl/host.py", "def __reduce__", "def _reduce", "host"),
    Mutant(
        "NumPy warns of a net that diverged", "rl/host.py", '@np.errstate(over="ignore", invalid="ignore")', "", "host"
    ),
    Mutant("no noise on the host", "rl/actor.py", "(output if noise is None else output + noise)", "output", "host"),
    Mutant(
        "spread not bounded on the host",
        "rl/actor.py",
        "np.minimum(np.maximum(log_std, LOG_STD[0]), LOG_STD[1])",
        "log_std",
        "host",
    ),
    Mutant(
        "action not squashed on the host",
        "rl/actor.py",
        "return sample, np.tanh(sample)",
        "return sample, sample",
        "host",
    ),
    Mutant(
        "spread free of the state on the host",
        "rl/actor.py",
        "host(self.log_std) + output[",
        "host(self.log_std) + 0 * output[",
        "host",
    ),
    # C
    Mutant("HL-Gauss sigma", "rl/heads.py", "0.75 * self.width * math.sqrt(2)", "0.75 * self.width", "heads"),
    Mutant("wide bins step over a peak", "rl/heads.py", "max(1.0, 0.7 * ratio)", "1.0", "heads"),
    Mutant("wide bins level a peak", "rl/heads.py", "min(ratio, self.outputs) / 4", "1.0", "heads"),
    Mutant(
        "a bias that learnt alone jumps",
        "rl/heads.py",
        "(weights.any() or _differ",
        "(weights.any() and _differ",
        "critic",
    ),
    Mutant(
        "an overflowing ratio is NaN", "rl/gradient.py", "log_ratio.clamp(max=20).exp()", "log_ratio.exp()", "gradient"
    ),
    Mutant(
        "scale too small",
        "rl/heads.py",
        "new = 1.25 * needed",
        "new = needed / 4",
        "heads",
    ),
    Mutant(
        "the scale moves under those who were told it",
        "rl/heads.py",
        "self.scale, self.shift = torch.full_like(self.scale, new), torch",
        "self.scale, self.shift = self.scale.fill_(new), torch",
        "heads",
    ),
    Mutant("reset rows set the scale", "rl/heads.py", "host(weight) > 0", "host(weight) > -1", "heads"),
    Mutant(
        "last layer not rescaled",
        "rl/heads.py",
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
        "self.critic.obs_norm.update(flat(rollout.obs)); row = self._targets(rollout)",
        "a2c agents",
    ),
    Mutant(
        "normaliser counts reset rows",
        "agents/a2c.py",
        "update(flat(rollout.obs), flat(rollout.valid))",
        "update(flat(rollout.obs))",
        "a2c agents",
    ),
    Mutant("images pooled over channels", "rl/norm.py", "i != channel_axis", "i == channel_axis", "norm"),
    Mutant("variance forgets how means differ", "rl/norm.py", "+ delta**2 *", "+ 0 * delta**2 *", "norm"),
    Mutant("weights of rows ignored", "rl/norm.py", "row = row[counted]", "pass", "norm"),
    Mutant(
        "a constant entry is its rounding",
        "rl/norm.py",
        "((obs - self.center) * self.scale)",
        "torch.addcmul(-self.center * self.scale, obs, self.scale)",
        "norm",
    ),
    Mutant(
        "the normaliser's memory is replaced",
        "rl/norm.py",
        "getattr(self, name).copy_(torch.as_tensor(value))",
        "setattr(self, name, torch.as_tensor(value).to(getattr(self, name)))",
        "norm host",
    ),
    Mutant("clip ignored", "rl/optim.py", "if self.clip_norm:", "if False:", "optim"),
    Mutant("short gradients stretched", "rl/optim.py", "torch.maximum(norm, self._longest)", "norm", "optim"),
    Mutant("penalties on biases", "rl/optim.py", 'float("weights." in name)', "1.0", "optim"),
    Mutant("decay ignored", "rl/optim.py", "max(0.0, 1 - step / decay_steps)", "1.0", "optim"),
    Mutant("optimiser's memory not loaded", "rl/optim.py", "value.copy_(state_dict[key])", "pass", "optim"),
    # PPO
    Mutant(
        "ppo: clip on the wrong side",
        "rl/gradient.py",
        "torch.maximum(free,",
        "torch.minimum(free,",
        "gradient",
    ),
    Mutant(
        "ppo: clip below alone",
        "rl/gradient.py",
        "torch.sub(advantage, advantage.abs(), alpha=clip)",
        "torch.sub(advantage, advantage, alpha=clip)",
        "gradient",
    ),
    Mutant("ppo: no clip", "rl/gradient.py", "advantage.abs(), alpha=clip)", "1e9)", "gradient ppo"),
    Mutant(
        "ppo: ratio upside down",
        "agents/ppo.py",
        "actor.pi.log_prob(batch.sample) - batch.log_prob",
        "batch.log_prob - actor.pi.log_prob(batch.sample)",
        "ppo",
    ),
    Mutant(
        "ppo: old policy is the new",
        "agents/ppo.py",
        "- batch.log_prob\n",
        "- actor.pi.log_prob(batch.sample)\n",
        "ppo",
    ),
    Mutant(
        "ppo: advantage's sign", "agents/ppo.py", "advantage = returns - value", "advantage = value - returns", "ppo"
    ),
    Mutant(
        "ppo: advantages not centred",
        "agents/ppo.py",
        "advantage -= (advantage * weight).sum()",
        "advantage -= 0",
        "ppo",
    ),
    Mutant(
        "ppo: reset rows in the advantages' size",
        "agents/ppo.py",
        "(advantage * advantage * weight).sum()",
        "(advantage * advantage).mean()",
        "ppo",
    ),
    Mutant(
        "ppo: before and after swapped", "agents/ppo.py", "value, next_value = host", "next_value, value = host", "ppo"
    ),
    Mutant("ppo: entropy's sign", "agents/ppo.py", "-c.entropy_coef * weight", "c.entropy_coef * weight", "ppo"),
    Mutant("ppo: entropy twice", "agents/ppo.py", "-c.entropy_coef *", "-2 * c.entropy_coef *", "ppo"),
    Mutant("ppo: never stops", "agents/ppo.py", "if self.config.target_kl and", "if False and", "ppo"),
    Mutant("ppo: stops without a bound", "agents/ppo.py", "if self.config.target_kl and", "if", "ppo"),
    Mutant(
        "ppo: divergence's sign",
        "agents/ppo.py",
        "(ratio.expm1() - ratio)",
        "(-ratio.expm1() + ratio)",
        "ppo",
    ),
    Mutant("ppo: one epoch", "agents/ppo.py", "range(self.config.epochs)", "range(1)", "ppo"),
    Mutant("ppo: tells of the last part", "agents/ppo.py", "batch.share for", "batch.share.detach() * 0 for", "ppo"),
    Mutant(
        "ppo: value before in units of cost",
        "agents/ppo.py",
        "_replace(returns=returns, value=value)",
        "_replace(returns=returns)",
        "ppo",
    ),
    Mutant(
        "ppo: returns learnt in units of cost",
        "agents/ppo.py",
        "_replace(returns=returns, value=value)",
        "_replace(value=value)",
        "ppo",
    ),
    Mutant("ppo: value clip not handed on", "agents/ppo.py", "batch.value, c.value_clip)", "batch.value, 0.0)", "ppo"),
    Mutant(
        "ppo: value clip ignored",
        "rl/heads.py",
        "if clip and before is not None",
        "if False and before is not None",
        "heads",
    ),
    Mutant(
        "ppo: value clip takes the smaller loss",
        "rl/heads.py",
        "torch.maximum(loss, near)",
        "torch.minimum(loss, near)",
        "heads",
    ),
    Mutant(
        "ppo: value clip round zero",
        "rl/heads.py",
        "cost.clamp(before - clip, before + clip)",
        "cost.clamp(before * 0 - clip, before * 0 + clip)",
        "heads",
    ),
    Mutant("ppo: value clip leaves the slope", "rl/heads.py", "slope * (loss >= near)", "slope", "heads"),
    Mutant(
        "ppo: slope of cross-entropy upside down",
        "rl/heads.py",
        ".exp() - smoothed",
        ".neg().exp() - smoothed",
        "heads",
    ),
    Mutant(
        "ppo: clip leaves the slope", "rl/gradient.py", "free * (free >= loss)", "free * (free <= free)", "gradient ppo"
    ),
    # Backpropagation by hand
    Mutant("backprop: the taken action alone", "rl/backprop.py", "(probs * -of_log_prob)", "(probs * 0)", "backprop"),
    Mutant(
        "backprop: entropy without its mean",
        "rl/backprop.py",
        "torch.addcmul(weighted, probs, entropy)",
        "weighted",
        "backprop",
    ),
    Mutant(
        "backprop: fresh samples stand still",
        "rl/backprop.py",
        "(slope * (fresh - pi.mean)).sum(0)",
        "0 * slope.sum(0)",
        "backprop",
    ),
    Mutant(
        "backprop: spread's slope at its ends", "rl/backprop.py", "free >= LOG_STD[0]", "free > LOG_STD[0]", "backprop"
    ),
    Mutant(
        "backprop: slope of tanh forgotten",
        "rl/backprop.py",
        "slope * y, y, value=-1)",
        "slope * y, y, value=0)",
        "backprop",
    ),
    Mutant(
        "backprop: missing choices take a slope",
        "rl/backprop.py",
        "[:, actor.place] if",
        "[:, : len(actor.place)] if",
        "backprop",
    ),
    Mutant(
        "ppo: normaliser counts reset rows",
        "agents/ppo.py",
        "update(flat(rollout.obs), flat(rollout.valid))",
        "update(flat(rollout.obs))",
        "agents",
    ),
    Mutant(
        "ppo: state without its optimizer",
        "agents/ppo.py",
        '        self.parts["optimizer"] = self.optimizer\n',
        "",
        "agents",
    ),
    # REPPO
    Mutant(
        "reppo: entropy counted after termination",
        "agents/reppo.py",
        "rollout.cost - rollout.discount * worth",
        "rollout.cost - self.config.gamma * worth",
        "reppo",
    ),
    Mutant(
        "reppo: entropy a cost",
        "agents/reppo.py",
        "rollout.cost - rollout.discount *",
        "rollout.cost + rollout.discount *",
        "reppo",
    ),
    Mutant(
        "reppo: entropy counted twice",
        "agents/reppo.py",
        "rollout.cost - rollout.discount *",
        "rollout.cost - 2 * rollout.discount *",
        "reppo",
    ),
    Mutant(
        "reppo: entropy not in units of cost",
        "agents/reppo.py",
        ".exp()) * self.unit.value",
        ".exp())",
        "reppo",
    ),
    Mutant(
        "reppo: entropy in units that follow it",
        "agents/reppo.py",
        ".exp()) * self.unit.value",
        ".exp() * self.critic.cost_scale.scale)",
        "reppo",
    ),
    Mutant(
        "norm: unit forgets where episodes end",
        "rl/norm.py",
        "np.where(done[t], 0.0, discount[t] * past[t])",
        "discount[t] * past[t]",
        "norm",
    ),
    Mutant("norm: unit without its discount", "rl/norm.py", "discount[t] * past[t])", "past[t])", "norm"),
    Mutant("norm: unit counts reset rows", "rl/norm.py", "past[valid > 0]", "past.ravel()", "norm"),
    Mutant("norm: unit of constant costs is 0", "rl/norm.py", "float(host(self.largest)) / 5)", "0.0)", "norm"),
    Mutant(
        "norm: unit is not kept",
        "rl/norm.py",
        "self.going = torch.from_numpy(going)",
        "self.going = self.going[:0]",
        "norm",
    ),
    Mutant(
        "reppo: gate reversed", "agents/reppo.py", "torch.where(kl < kl_bound,", "torch.where(kl > kl_bound,", "reppo"
    ),
    Mutant(
        "reppo: gate always open",
        "agents/reppo.py",
        "torch.where(kl < kl_bound,",
        "torch.where(kl < math.inf,",
        "reppo",
    ),
    Mutant("reppo: gate cannot be left out", "agents/reppo.py", " if self.config.kl_gate else math.inf", "", "reppo"),
    Mutant(
        "reppo: pushed away instead of back",
        "agents/reppo.py",
        "alpha * entropy, beta * kl)",
        "alpha * entropy, -beta * kl)",
        "reppo",
    ),
    Mutant(
        "reppo: entropy's sign in the actor",
        "agents/reppo.py",
        "cost - alpha * entropy",
        "cost + alpha * entropy",
        "reppo",
    ),
    Mutant(
        "reppo: old policy is the new",
        "agents/reppo.py",
        "type(pi).of(batch.old).kl(pi)",
        "type(pi).of(pi.columns().detach()).kl(pi)",
        "reppo",
    ),
    Mutant(
        "reppo: divergence the other way",
        "agents/reppo.py",
        "type(pi).of(batch.old).kl(pi)",
        "pi.kl(type(pi).of(batch.old))",
        "reppo",
    ),
    Mutant(
        "reppo: alpha's sign",
        "agents/reppo.py",
        "missing = (self.entropy_target - entropy)",
        "missing = (entropy - self.entropy_target)",
        "reppo",
    ),
    Mutant(
        "reppo: beta's sign",
        "agents/reppo.py",
        "excess = kl / (self.config.kl_bound * self.pace + 1e-9) - 1",
        "excess = 1 - kl / (self.config.kl_bound * self.pace + 1e-9)",
        "reppo",
    ),
    Mutant(
        "reppo: entropy target's sign",
        "agents/reppo.py",
        "c.entropy_target * most",
        "-c.entropy_target * most",
        "reppo",
    ),
    Mutant(
        "reppo: C's gradient in units of cost",
        "agents/reppo.py",
        "sample) / self.unit.value",
        "sample)",
        "reppo",
    ),
    Mutant(
        "reppo: a first rollout longer than the warmup teaches the actor",
        "agents/reppo.py",
        "warm = self.steps >= self.config.critic_warmup\n        self.steps += int(rollout.valid.sum())",
        "self.steps += int(rollout.valid.sum())\n        warm = self.steps > self.config.critic_warmup",
        "reppo",
    ),
    Mutant(
        "a2c: a first rollout longer than the warmup teaches the actor",
        "agents/a2c.py",
        "warm = self.steps >= self.config.critic_warmup\n        self.steps += int(rollout.valid.sum())",
        "self.steps += int(rollout.valid.sum())\n        warm = self.steps > self.config.critic_warmup",
        "a2c",
    ),
    Mutant("cost: takes in what is not finite", "rl/cost.py", "not bool(torch.isfinite(told).all())", "False", "cost"),
    Mutant(
        "calls: a fault of a class that cannot travel",
        "rl/black_box.py",
        "pickle.loads(pickle.dumps(said))",
        "pass",
        "calls",
    ),
    Mutant(
        "train: a resumed run looks for its file where the user stands",
        "scripts/train.py",
        'started.get("env_argument", args.env)',
        "args.env",
        "scripts",
    ),
    Mutant(
        "checkpoint: any space will do",
        "rl/checkpoint.py",
        "if (here := getattr(agent.codec, key)) != there:",
        "if (here := there) != there:",
        "scripts",
    ),
    Mutant(
        "cost: skipped answers thin the correction out",
        "rl/cost.py",
        ".sum() / counts.sum().clamp(min=1)",
        ".mean()",
        "cost",
    ),
    Mutant(
        "guided es: as many directions as guides",
        "agents/guided_es.py",
        "torch.randn(c.directions, basis.shape[1],",
        "torch.randn(c.directions, count,",
        "gradient_free",
    ),
    Mutant(
        "reppo: actor learns during the warmup",
        "agents/reppo.py",
        "warm = self.steps >= self.config.critic_warmup",
        "warm = True",
        "reppo",
    ),
    Mutant(
        "reppo: actor's step taken by C's optimizer",
        "agents/reppo.py",
        "norm = descend(self.actor_optimizer, loss)",
        "norm = self.critic_optimizer.apply(self.critic_optimizer._slots) + descend(self.actor_optimizer, loss)",
        "reppo",
    ),
    Mutant(
        "reppo: state without its multipliers",
        "agents/reppo.py",
        '"multipliers": self.multipliers, ',
        "",
        "agents",
    ),
    Mutant(
        "reppo: multipliers wind up",
        "agents/reppo.py",
        "return self.actor_optimizer.current_lr / (self.config.actor_lr or 1.0)",
        "return 1.0",
        "reppo",
    ),
    Mutant(
        "reppo: the bound stays wide",
        "agents/reppo.py",
        "bound = self.config.kl_bound * self.pace if",
        "bound = self.config.kl_bound if",
        "reppo",
    ),
    Mutant("reppo: multipliers leap", "agents/reppo.py", "missing_entropy.clamp(-1, 1)", "missing_entropy", "reppo"),
    Mutant(
        "reppo: entropy missed is counted as a whole",
        "agents/reppo.py",
        "- entropy) / self.dimensions",
        "- entropy)",
        "reppo",
    ),
    # The scale of a distribution over costs
    Mutant("support round zero", "rl/heads.py", "torch.full_like(self.shift, middle)", "self.shift", "heads"),
    Mutant(
        "support moves and the last layer does not",
        "rl/heads.py",
        "bias, ratio, offset)",
        "bias, ratio, 0.0)",
        "critic heads",
    ),
    Mutant(
        "a number is shifted as it was", "rl/heads.py", "(bias - offset) / ratio", "(bias + offset) / ratio", "heads"
    ),
    # An example of it
    Mutant(
        "controller: no dead time",
        "scripts/examples/controller.py",
        "valve[t - delay, rows]",
        "valve[t, rows]",
        "controller",
    ),
    Mutant(
        "controller: a sensor without steps",
        "scripts/examples/controller.py",
        "np.round(level / STEP)",
        "level / STEP",
        "controller",
    ),
    Mutant(
        "controller: no lag",
        "scripts/examples/controller.py",
        "np.exp(-1 / plants[:, 1])",
        "0 * plants[:, 1]",
        "controller",
    ),
    Mutant(
        "controller: C is told nothing of the plant",
        "scripts/examples/controller.py",
        "context=known(batch)",
        "context=0 * known(batch)",
        "controller",
    ),
    # C as a loss
    Mutant("loss: the residual's sign", "rl/cost.py", "(cost - said) * counts", "(said - cost) * counts", "cost"),
    Mutant(
        "loss: corrected after learning",
        "rl/cost.py",
        "loss = self._expected(leaf, context, share) +",
        "self._learn(context, sample, cost, counts)\n            loss = self._expected(leaf, context, share) +",
        "cost",
    ),
    Mutant(
        "loss: noise of another size",
        "rl/outputs.py",
        "(sample.continuous - continuous) / self.sigma",
        "(sample.continuous - continuous)",
        "cost",
    ),
    Mutant(
        "loss: a set's score of one row",
        "rl/cost.py",
        "log_prob = log_prob.sum(1, keepdim=True)",
        "log_prob = log_prob[:, :1]",
        "cost",
    ),
    Mutant(
        "loss: sets are the caller's own", "rl/evaluations.py", "column.clone() for column", "column for column", "cost"
    ),
    Mutant("loss: no local expectation", "rl/cost_critic.py", "value + local - local.detach()", "value", "cost"),
    Mutant(
        "loss: C's gradient turned over",
        "rl/cost.py",
        "((output - leaf.detach()) * slope)",
        "((leaf.detach() - output) * slope)",
        "cost",
    ),
    # What weighs, lasts and is remembered in a replay
    Mutant(
        "sac: the temperature sees entropy by weights of sum below 1",
        "agents/sac.py",
        "entropy @ batch.weight / batch.weight.sum()",
        "entropy @ batch.weight",
        "offpolicy",
    ),
    Mutant(
        "probe: entropy of every step, folded or not",
        "rl/rewind.py",
        "t, n = self.t, self.estimate.fold",
        "t, n = self.t, 1",
        "probe",
    ),
    Mutant(
        "sac: says nothing of its fold",
        "agents/sac.py",
        "c.gamma, price, dearest, c.fold)",
        "c.gamma, price, dearest)",
        "probe",
    ),
    Mutant(
        "checkpoint: a replay is copied to be saved",
        "rl/checkpoint.py",
        "storage.data_ptr() not in taken and tensor.is_contiguous()",
        "storage.data_ptr() not in taken and tensor.is_contiguous() and storage.nbytes() == tensor.nbytes",
        "checkpoint",
    ),
    Mutant(
        "acting: noise of uniform boxes remembers nothing",
        "rl/acting.py",
        "if self.correlation:  # the quantiles",
        "if False:  # the quantiles",
        "acting",
    ),
    Mutant(
        "acting: noise of uniform choices remembers nothing",
        "rl/acting.py",
        "self._draw(1, rows)[0]",
        "host(self.actor.noise(rows, generator=self.generator))",
        "acting",
    ),
    Mutant(
        "replay: a ring goes on in a larger one",
        "rl/replay.py",
        "(self.size < self.capacity and self.next != self.size)",
        "False",
        "replay",
    ),
    Mutant(
        "replay: chances take no memory",
        "rl/replay.py",
        "(SumTree.ROW if self.priority else 0)",
        "0",
        "replay",
    ),
    Mutant(
        "replay: taken up whatever is free",
        "rl/replay.py",
        "for name, value in filled.items()}, self.size)",
        "for name, value in filled.items()}, 0)",
        "replay",
    ),
    Mutant(
        "loss: rows that fail count by C alone",
        "rl/cost.py",
        "self._expected(leaf, context, share) +",
        "self._expected(leaf, context) +",
        "cost",
    ),
    Mutant(
        "loss: in use it draws what training would",
        "rl/cost.py",
        "generator=torch.Generator().manual_seed(self.seed)",
        "generator=None",
        "cost",
    ),
    Mutant(
        "loss: in use its gradient reaches C",
        "rl/cost.py",
        "            p.requires_grad_(False)",
        "            pass",
        "cost",
    ),
    Mutant("calls: a failure is known", "rl/black_box.py", "if own:", "if True:", "calls"),
    Mutant("calls: a set is the caller's own memory", "rl/black_box.py", "values.copy() if", "values if", "calls"),
    Mutant(
        "calls: a script's own class is another one in a worker",
        "rl/black_box.py",
        "cloudpickle.dumps(value)",
        "pickle.dumps(value) if isinstance(value, tuple) else cloudpickle.dumps(value)",
        "calls",
    ),
    Mutant(
        "calls: programs outlive the call that started them",
        "rl/black_box.py",
        "os.killpg(0, signal.SIGKILL)",
        "os._exit(1)",
        "calls",
    ),
    Mutant(
        "calls: a dropped black box keeps its processes",
        "rl/black_box.py",
        "weakref.finalize(self, _end, self._pool)",
        "pass",
        "calls",
    ),
    Mutant(
        "loss: a copy's optimiser moves what it was copied from",
        "rl/optim.py",
        "return self._first.data_ptr() != self.flat.data_ptr()",
        "return False",
        "cost",
    ),
    Mutant(
        "loss: of half precision in a model of half precision",
        "rl/cost.py",
        "tensor.to(fn(tensor.new_empty(0)).device)",
        "fn(tensor)",
        "cost",
    ),
    Mutant(
        "loss: what it remembers stays behind",
        "rl/cost.py",
        "self.known.to(self.outputs.combinations.device)",
        "pass",
        "cost",
    ),
    Mutant(
        "loss: its optimiser starts anew in a loaded model",
        "rl/cost.py",
        'self.optimizer.load_state_dict(state["optimizer"])',
        "pass",
        "cost",
    ),
    Mutant(
        "calls: failures do not count as evaluations",
        "rl/black_box.py",
        "self.ledger.evaluations += asked",
        "self.ledger.evaluations += 0",
        "calls",
    ),
    Mutant(
        "calls: the budget is passed",
        "rl/black_box.py",
        "self.ledger.evaluations + asked > self.budget",
        "self.ledger.evaluations > self.budget",
        "calls",
    ),
    Mutant(
        "calls: private is no part of what is known",
        "rl/black_box.py",
        "for part in (output, context, private))",
        "for part in (output, context))",
        "calls",
    ),
    # Off-policy
    Mutant("crossq: the cheaper critic", "agents/crossq.py", ".amax(0)", ".amin(0)", "crossq"),
    Mutant("crossq: the next state passes alone", "agents/crossq.py", "net.training = True", "net.eval()", "crossq"),
    Mutant(
        "crossq: a state learns with the next one's slope",
        "agents/crossq.py",
        "output, following = through",
        "following, output = through",
        "crossq",
    ),
    Mutant("crossq: entropy a cost", "agents/crossq.py", "expected - worth", "expected + worth", "crossq"),
    Mutant(
        "crossq: the actor's step uses the batch's statistics",
        "agents/crossq.py",
        "self.critic.net.training = False\n        output",
        "output",
        "crossq",
    ),
    Mutant(
        "crossq: the scale sees one batch in twenty",
        "rl/heads.py",
        "torch.maximum(self.outermost, torch.stack((-low, high)), out=self.outermost)",
        "self.outermost.copy_(torch.stack((-low, high)))",
        "crossq",
    ),
    Mutant("crossq: no delay", "agents/crossq.py", "self.updates % self.config.policy_delay == 0", "True", "crossq"),
    Mutant("soft cost: the cheaper critic", "rl/entropy.py", "masks).amax(0)", "masks).amin(0)", "offpolicy"),
    Mutant(
        "soft cost: the dearer critic of a choice",
        "rl/entropy.py",
        "masks=masks).mean(0)",
        "masks=masks).amax(0)",
        "offpolicy",
    ),
    Mutant("soft cost: entropy a cost", "rl/entropy.py", "amax(0) - alpha", "amax(0) + alpha", "offpolicy"),
    Mutant("through: the cheaper critic", "rl/through.py", "through.cost.max(0)", "through.cost.min(0)", "through"),
    Mutant("through: entropy a cost", "rl/through.py", "-alpha * weight)", "alpha * weight)", "through"),
    Mutant("through: rows that do not count", "rl/through.py", "slope * weight.unsqueeze(-1)\n", "slope\n", "through"),
    Mutant(
        "through: scale forgotten", "rl/through.py", "of_cost * self._critic.cost_scale.scale", "of_cost", "through"
    ),
    Mutant("through: all of C", "rl/through.py", "action, first=True)", "action)", "through"),
    Mutant(
        "through: a choice without the mean", "rl/through.py", "log_prob - soft.unsqueeze(-1))", "log_prob)", "through"
    ),
    Mutant(
        "through: of choices the first alone", "rl/policy.py", "repeat_interleave(places", "repeat(1, places", "through"
    ),
    Mutant("heads: a mean's slope without the mean", "rl/heads.py", "(self.centers - (probs", "(0 * (probs", "through"),
    Mutant(
        "backprop: an action's slope is the state's",
        "rl/backprop.py",
        "first[..., -self._wanted :, :])",
        "first[..., : self._wanted, :])",
        "backprop",
    ),
    Mutant(
        "backprop: one output's slope is its weight's", "rl/backprop.py", "slope * weight.mT", "weight.mT", "backprop"
    ),
    Mutant("nets: one output has no bias", "rl/nets.py", "unsqueeze(-1) + bias", "unsqueeze(-1)", "nets"),
    Mutant(
        "backprop: the wrong rows have a slope",
        "rl/backprop.py",
        "[i][..., :rows, :]",
        "[i][..., -rows:, :]",
        "backprop",
    ),
    Mutant(
        "backprop: batch statistics stand still",
        "rl/backprop.py",
        "if self._joint:\n",
        "if False:\n",
        "backprop",
    ),
    Mutant(
        "backprop: whose statistics counted is forgotten",
        "rl/backprop.py",
        "if self._joint:\n",
        "if self.net.training:\n",
        "backprop crossq",
    ),
    Mutant(
        "soft cost: temperature's sign", "rl/entropy.py", "entropy - self.target", "self.target - entropy", "crossq"
    ),
    Mutant(
        "batch norm: never the running statistics",
        "rl/batch_norm.py",
        "if not self.training:",
        "if False:",
        "batch_norm",
    ),
    Mutant(
        "batch norm: members' statistics mixed up",
        "rl/batch_norm.py",
        "mean = x.mean(1, keepdim=True)",
        "mean = x.flip(0).mean(1, keepdim=True)",
        "batch_norm",
    ),
    Mutant("td3: the cheaper critic", "agents/td3.py", ".amax(0)", ".amin(0)", "offpolicy"),
    Mutant(
        "td3: noise is not clipped",
        "agents/td3.py",
        "(c.target_noise * noise).clamp(-c.noise_clip, c.noise_clip)",
        "c.target_noise * noise",
        "offpolicy",
    ),
    Mutant(
        "td3: the target is the critic",
        "agents/td3.py",
        "critic = self.target_critic.copy",
        "critic = self.critic",
        "offpolicy",
    ),
    Mutant("td3: no delay", "agents/td3.py", "self.updates % self.config.policy_delay == 0", "True", "offpolicy"),
    Mutant("a target goes the rest of the way", "rl/optim.py", "flat, self.tau)", "flat, 1 - self.tau)", "offpolicy"),
    Mutant(
        "replay: a clock is no end",
        "rl/replay.py",
        "step.terminated | step.truncated, self",
        "step.terminated, self",
        "replay",
    ),
    Mutant(
        "replay: ends where it begins",
        "rl/replay.py",
        "discount = discount * ~ended",
        'discount = discount * ~kept["terminated"](0, place)',
        "replay",
    ),
    Mutant("replay: later costs weigh 1", "rl/replay.py", "discount * more", "more", "replay"),
    Mutant("replay: gamma once", "rl/replay.py", "discount * self.gamma, discount", "discount, discount", "replay"),
    Mutant(
        "replay: the observation after one step",
        "rl/replay.py",
        'kept["next_obs"](0, last)',
        'kept["next_obs"](0, place)',
        "replay",
    ),
    Mutant(
        "replay: old links stay",
        "rl/replay.py",
        'arrays["valid"][row], arrays["following"][row] = step.valid, NONE',
        'arrays["valid"][row] = step.valid',
        "replay",
    ),
    Mutant(
        "replay: fresh episodes go on with old ones",
        "rl/replay.py",
        "self._newest = self._newest[:0]",
        "pass",
        "replay",
    ),
    Mutant("replay: a reward is a cost", "rl/replay.py", "cost_of(step.reward)", "step.reward", "replay"),
    Mutant(
        "replay: reset rows are drawn",
        "rl/replay.py",
        "while not bool((counts := valid.index_select(0, place)).all()):",
        "while False:",
        "replay",
    ),
    Mutant("replay: errors rank as they are", "rl/replay.py", "+ LEAST) ** self.priority", "+ LEAST) ** 1.0", "replay"),
    Mutant("replay: bias kept", "rl/replay.py", "** -self.correction", "** 0.0", "replay"),
    Mutant("replay: bias doubled", "rl/replay.py", "** -self.correction", "** self.correction", "replay"),
    Mutant(
        "replay: new rows are never seen", "rl/replay.py", "self.largest * step.valid", "1e-9 * step.valid", "replay"
    ),
    Mutant("replay: priorities are not kept", "rl/replay.py", 'state_dict["priority"].numpy()', "1.0", "replay"),
    Mutant(
        "hindsight: goals of the episode's end alone",
        "rl/hindsight.py",
        "(share * (ahead + 1)).long()",
        "ahead",
        "hindsight",
    ),
    Mutant(
        "hindsight: the row itself is no later one",
        "rl/hindsight.py",
        "(share * (ahead + 1)).long()",
        "(share * ahead).ceil().long()",
        "hindsight",
    ),
    Mutant(
        "hindsight: goals of the next episode",
        "rl/hindsight.py",
        "step.terminated | step.truncated, NONE, self._going",
        "step.terminated, NONE, self._going",
        "hindsight",
    ),
    Mutant(
        "hindsight: costs stay those of the old goal",
        "rl/hindsight.py",
        "cost[:count], ended[:count] = (torch.from_numpy(value) for value in said)",
        "del said",
        "hindsight",
    ),
    Mutant(
        "hindsight: a reward is a cost", "rl/goals.py", "return cost_of(said), ended", "return said, ended", "hindsight"
    ),
    Mutant("hindsight: share turned over", "rl/hindsight.py", "ratio / (1 + ratio)", "1 / (1 + ratio)", "hindsight"),
    Mutant(
        "hindsight: the next observation keeps its goal",
        "rl/replay.py",
        "self.hindsight.put(goal, next_obs)",
        "pass",
        "hindsight",
    ),
    Mutant(
        "hindsight: steps after the end under the new goal count",
        "rl/replay.py",
        "(following != NONE) & ~ended",
        "following != NONE",
        "hindsight",
    ),
    Mutant(
        "hindsight: episodes are forgotten with the process",
        "rl/hindsight.py",
        "self._last[episode[newest]] = newest",
        "pass",
        "hindsight",
    ),
    Mutant("hindsight: rewards are believed", "rl/goals.py", "if differs.any():", "if False:", "hindsight"),
    Mutant(
        "tree: left and right swapped",
        "rl/priority.py",
        "node = 2 * node + right",
        "node = 2 * node + ~right",
        "replay",
    ),
    # Distributions and minibatches
    Mutant(
        "divergence of spreads forgotten",
        "rl/policy.py",
        "(log_ratio + square / 2 - 0.5)",
        "(square / 2 - 0.5)",
        "actor",
    ),
    Mutant("divergence of means forgotten", "rl/policy.py", "(self.mean - other.mean).square()", "0", "actor"),
    Mutant(
        "divergence weighed by the other",
        "rl/policy.py",
        "(self.probs * (self.log_probs - other",
        "(other.probs * (self.log_probs - other",
        "actor",
    ),
    Mutant(
        "minibatches in order",
        "rl/rollout.py",
        "torch.randperm(count, generator=generator, device=generator.device)",
        "torch.arange(count)",
        "rollout",
    ),
    Mutant(
        "minibatches by the global random state",
        "rl/rollout.py",
        "torch.randperm(count, generator=generator, device",
        "torch.randperm(count, device",
        "rollout",
    ),
    Mutant(
        "minibatches weigh less than 1",
        "rl/rollout.py",
        "weight /= weight.sum(1, keepdim=True).clamp(min=1e-12)",
        "pass",
        "rollout",
    ),
    Mutant(
        "minibatches divide by 0",
        "rl/rollout.py",
        ".sum(1, keepdim=True).clamp(min=1e-12)",
        ".sum(1, keepdim=True)",
        "rollout",
    ),
    Mutant(
        "a target that is no number goes through",
        "rl/heads.py",
        "if not math.isfinite(lowest) or not math.isfinite(highest):",
        "if False:",
        "heads",
    ),
    # The drawing of an agent
    Mutant(
        "drawing: the score's gradient runs through C",
        "rl/graph.py",
        'edges += [Edge("score", "policy", "score")',
        'edges += [Edge("score", "critic", "score")',
        "draw",
    ),
    Mutant(
        "drawing: gradient-free agents are said to learn through C",
        "rl/graph.py",
        '        return "search"\n',
        '        return "pathwise"\n',
        "draw",
    ),
    Mutant(
        "drawing: counts weights and no biases",
        "rl/graph.py",
        "for parameter in module.parameters())",
        "for parameter in net.weights)",
        "draw",
    ),
    Mutant(
        "drawing: a caption lies on its neighbour",
        "rl/layout.py",
        '"advantage": (-0.15, -0.45, "right", "top")',
        '"advantage": (-0.15, 0.45, "right", "bottom")',
        "draw",
    ),
    # Whether C can be trusted
    Mutant(
        "fidelity: the square of a noisy mean",
        "rl/fidelity.py",
        "((total**2).sum(-1) - (seen**2).sum((1, 2))) / (rounds * (rounds - 1))",
        "(total**2).sum(-1) / rounds**2",
        "fidelity",
    ),
    Mutant(
        "fidelity: a difference over one step",
        "rl/probe.py",
        ".T / (2 * step)",
        ".T / step",
        "probe",
    ),
    Mutant(
        "fidelity: up and down see other noise",
        "rl/probe.py",
        "self._play(player, self.horizon, seed)",
        "self._play(player, self.horizon, seed + len(found))",
        "probe",
    ),
    Mutant(
        "fidelity: the clock is not stopped",
        "rl/rewind.py",
        "return None if stop is None else stop()",
        "return None",
        "probe",
    ),
    Mutant(
        "fidelity: entropy past the end",
        "rl/rewind.py",
        "np.where(self.done[:t], 0.0, self.discount[:t])",
        "self.discount[:t]",
        "probe",
    ),
    Mutant(
        "fidelity: entropy costs",
        "rl/rewind.py",
        "1.0) - self._entropy(), left",
        "1.0) + self._entropy(), left",
        "probe",
    ),
    Mutant(
        "fidelity: termination forgotten",
        "rl/rewind.py",
        "self.estimate.gamma * ~step.terminated",
        "self.estimate.gamma * (step.terminated | True)",
        "probe",
    ),
    Mutant(
        "fidelity: the policy's own first action",
        "rl/rewind.py",
        "if t == 0 and self.first is not None:",
        "if False:",
        "probe",
    ),
    Mutant(
        "fidelity: the advantage of no policy",
        "rl/probe.py",
        "(costs * probs).sum(-1, keepdims=True)",
        "costs.mean(-1, keepdims=True)",
        "probe",
    ),
    Mutant(
        "fidelity: the agent's own generator",
        "rl/session.py",
        "found = probe(self.agent, self._fresh, seed=self.seed)",
        "found = (self.agent.acting.uniform(1), probe(self.agent, self._fresh, seed=self.seed))[1]",
        "probe",
    ),
    Mutant(
        "fidelity: a reset is a step of the probe",
        "rl/probe.py",
        "self.steps += tick.step - self.waiting",
        "self.steps += tick.step",
        "probe",
    ),
    Mutant(
        "search: what is spent later replaces the ledger",
        "rl/ledger.py",
        "            both.read(path)\n",
        "",
        "ledger",
    ),
    Mutant(
        "fidelity: SAC's mean",
        "agents/sac.py",
        "c, dearest = self.config, not self.codec.discrete",
        "c, dearest = self.config, False",
        "probe",
    ),
    Mutant("report: nothing beside", "scripts/report_plot.py", "row.env == task[0]]", "row.env == task]", "report"),
    # Search without gradients
    Mutant(
        "search: reset rows cost",
        "rl/population.py",
        "np.where(step.valid, cost_of(step.reward), 0.0)",
        "cost_of(step.reward)",
        "population",
    ),
    Mutant(
        "search: a candidate takes over amid an episode",
        "rl/population.py",
        "self._fresh & (self._playing == RESTS)",
        "self._playing == RESTS",
        "population",
    ),
    Mutant(
        "search: what rests is counted",
        "rl/population.py",
        "if (k := self._playing[i]) != RESTS:",
        "if (k := self._playing[i]) >= RESTS:",
        "population",
    ),
    Mutant(
        "search: an episode inherits the cost before it",
        "rl/population.py",
        "            self._going[i] = 0.0",
        "            pass",
        "population",
    ),
    Mutant(
        "search: the clock ends no candidate's episode",
        "rl/population.py",
        "(step.terminated | step.truncated) & step.valid",
        "step.terminated & step.valid",
        "population",
    ),
    Mutant(
        "search: candidates keep their seats at a fresh begin",
        "rl/population.py",
        "        self._seat(0)\n        self._enqueue()",
        "        self._enqueue()",
        "population",
    ),
    Mutant(
        "search: pairs on one side",
        "rl/search.py",
        "np.concatenate((center + step, center - step))",
        "np.concatenate((center + step, center + step))",
        "search",
    ),
    Mutant(
        "search: ranks upside down",
        "rl/search.py",
        "place / max(len(cost) - 1, 1) - 0.5",
        "0.5 - place / max(len(cost) - 1, 1)",
        "search",
    ),
    Mutant(
        "search: the dearest pairs count",
        "rl/search.py",
        "np.argsort(np.minimum(plus, minus)",
        "np.argsort(np.maximum(plus, minus)",
        "search",
    ),
    Mutant(
        "search: guided noise too short",
        "rl/search.py",
        "(1 - share) * len(basis) / basis.shape[1]",
        "(1 - share) / basis.shape[1]",
        "search",
    ),
    Mutant(
        "search: statistics move amid a generation",
        "rl/policies.py",
        "self.seen.update(obs, valid)",
        "self.seen.update(obs, valid), self.renew()",
        "population",
    ),
    Mutant(
        "search: rows act by the first one's parameters",
        "rl/policies.py",
        "rows[:, start:end].reshape(len(rows)",
        "rows[:, start:end][:1].repeat(len(rows), 0).reshape(len(rows)",
        "policies",
    ),
    Mutant(
        "search: ARS climbs",
        "agents/ars.py",
        "self.policies.center - step",
        "self.policies.center + step",
        "gradient_free",
    ),
    Mutant(
        "search: resets are counted as steps",
        "rl/evaluate.py",
        "ledger.evaluation += n - int(reset_row.sum())",
        "ledger.evaluation += n",
        "ledger",
    ),
    Mutant(
        "search: guided ES never looks at C",
        "agents/guided_es.py",
        "if count := min(self.guided, c.subspace):",
        "if (count := min(self.guided, c.subspace)) < 0:",
        "gradient_free",
    ),
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
        current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # a pool's may start no others
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
