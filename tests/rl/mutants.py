"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

SEQUENCE = "[int(state) for state in np.random.SeedSequence(seed).generate_state(count, np.uint64)]"
MUTANTS = [
    # What a user's environment gets wrong
    Mutant("a blind evaluation", "rl/evaluate.py", "        _check_finite(obs, wanted)\n", "", "rl/evaluate"),
    # What the environment says
    Mutant(
        "reset rows not masked by the loop",
        "rl/loop.py",
        "~at.reset_row if any_reset else everything",
        "everything",
        "rl/loop",
    ),
    Mutant(
        "final_obs of SAME_STEP ignored",
        "rl/loop.py",
        "if any_done and mode == AutoresetMode.SAME_STEP:",
        "if False:",
        "rl/loop",
    ),
    Mutant(
        "DISABLED resets everybody", "rl/loop.py", 'env.reset(options={"reset_mask": done})', "env.reset()", "rl/loop"
    ),
    Mutant(
        "numbers not checked",
        "rl/extremes.py",
        "if of_reward < self._reward and of_obs < self._obs:",
        "if True:",
        "rl/loop",
    ),
    Mutant(
        "observations share the environment's memory",
        "rl/observations.py",
        "np.array(obs, dtype=np.uint8",
        "np.asarray(obs, dtype=np.uint8",
        "rl/loop rl/spaces",
    ),
    Mutant("all is kept as bytes", "rl/observations.py", "self._bytes and getattr", "True or getattr", "rl/spaces"),
    Mutant(
        "low and high swapped",
        "rl/spaces.py",
        "low + (action + 1) * ((high - low) / 2)",
        "high + (action + 1) * ((low - high) / 2)",
        "rl/spaces",
    ),
    # Returns
    Mutant("trace not cut", "rl/returns.py", "discount * ~cut * lambda_", "discount * lambda_", "rl/returns"),
    Mutant("gamma twice", "rl/returns.py", "(discount - carry) *", "(discount * discount - carry) *", "rl/returns"),
    Mutant("end of the rollout forgotten", "rl/returns.py", "carry[-1] = 0.0", "carry[-1] *= 1.0", "rl/returns"),
    Mutant("advantage without its value", "rl/returns.py", "cut, lambda_) - value", "cut, lambda_)", "rl/returns"),
    Mutant(
        "returns written over the costs",
        "rl/returns.py",
        "returns = cost + (",
        "returns = cost; returns += (",
        "rl/returns",
    ),
    # Actors
    Mutant(
        "one seed and the next share streams", "rl/seeds.py", SEQUENCE, "[seed + i for i in range(count)]", "rl/seeds"
    ),
    Mutant("every stream is the same", "rl/seeds.py", SEQUENCE, "[seed * 10**6] * count", "rl/seeds"),
    Mutant(
        "playing goes on with training's stream",
        "rl/networks/acting.py",
        "spawn_seeds(seed, 2)",
        "(seed, seed)",
        "rl/seeds",
    ),
    # Normalisation and optimisers
    Mutant("images pooled over channels", "rl/norm.py", "i != channel_axis", "i == channel_axis", "rl/norm"),
    Mutant("variance forgets how means differ", "rl/norm.py", "+ delta**2 *", "+ 0 * delta**2 *", "rl/norm"),
    Mutant("weights of rows ignored", "rl/norm.py", "row = row[counted]", "pass", "rl/norm"),
    Mutant(
        "a constant entry is its rounding",
        "rl/norm.py",
        "((obs - self.center) * self.scale)",
        "torch.addcmul(-self.center * self.scale, obs, self.scale)",
        "rl/norm",
    ),
    Mutant(
        "the normaliser's memory is replaced",
        "rl/norm.py",
        "getattr(self, name).copy_(torch.as_tensor(value))",
        "setattr(self, name, torch.as_tensor(value).to(getattr(self, name)))",
        "rl/norm rl/networks/numpy_forward",
    ),
    Mutant("clip ignored", "rl/optim.py", "if self.max_grad_norm:", "if False:", "rl/optim"),
    Mutant("short gradients stretched", "rl/optim.py", "torch.maximum(norm, self._max_grad_norm)", "norm", "rl/optim"),
    Mutant("penalties on biases", "rl/optim.py", "float(w)) for p", "1.0) for p", "rl/optim"),
    Mutant("decay ignored", "rl/optim.py", "max(0.0, 1 - step / decay_steps)", "1.0", "rl/optim"),
    Mutant("optimiser's memory not loaded", "rl/optim.py", "value.copy_(state_dict[key])", "pass", "rl/optim"),
    # REPPO
    Mutant(
        "norm: cost unit ignores episode ends",
        "rl/norm.py",
        "np.where(done[t] | (valid[t] == 0), 0.0, discount[t] * past[t])",
        "discount[t] * past[t]",
        "rl/norm",
    ),
    Mutant("norm: cost unit is not discounted", "rl/norm.py", "discount[t] * past[t])", "past[t])", "rl/norm"),
    Mutant("norm: cost unit counts reset rows", "rl/norm.py", "past[valid > 0]", "past.ravel()", "rl/norm"),
    Mutant(
        "norm: cost unit of constant costs is 0", "rl/norm.py", "float(to_numpy(self.largest)) / 5)", "0.0)", "rl/norm"
    ),
    Mutant(
        "norm: cost unit forgets unfinished episodes",
        "rl/norm.py",
        "self.going = torch.from_numpy(carry)",
        "self.going = self.going[:0]",
        "rl/norm",
    ),
    # What weighs, lasts and is remembered in a replay
    Mutant(
        "checkpoint: a replay is copied to be saved",
        "rl/checkpoint.py",
        "storage.data_ptr() not in taken and tensor.is_contiguous()",
        "storage.data_ptr() not in taken and tensor.is_contiguous() and storage.nbytes() == tensor.nbytes",
        "rl/checkpoint",
    ),
    # Whether C can be trusted
    Mutant(
        "search: what is spent later replaces the ledger",
        "rl/ledger.py",
        "            both.read(path)\n",
        "",
        "rl/ledger",
    ),
    # Search without gradients
    Mutant(
        "search: resets are counted as steps",
        "rl/evaluate.py",
        "ledger.evaluation += n - int(reset_row.sum())",
        "ledger.evaluation += n",
        "rl/ledger",
    ),
    Mutant(
        "optimiser: a gradient too few goes through",
        "rl/optim.py",
        "if len(gradient) != len(self.slots):",
        "if False:",
        "rl/optim",
    ),
    Mutant(
        "optimiser: a gradient of another shape goes through",
        "rl/optim.py",
        "if gradient[i].shape != self.slots[i].shape:",
        "if False:",
        "rl/optim",
    ),
    Mutant("optimiser: a moved module goes through", "rl/optim.py", "if self.is_stale:\n", "if False:\n", "rl/optim"),
    Mutant("penalties on norms of images", "rl/optim.py", "if isinstance(owner, _NORMS):", "if False:", "rl/optim"),
    Mutant(
        "penalties on biases of any shape", "rl/optim.py", '"bias" not in name and parameter', "parameter", "rl/optim"
    ),
    Mutant(
        "penalties on gains of an ensemble",
        "rl/optim.py",
        'getattr(owner, "penalised", parameter.dim() > 1)',
        "parameter.dim() > 1",
        "rl/optim",
    ),
    Mutant(
        "no penalties on convolutions",
        "rl/optim.py",
        '"bias" not in name and parameter.dim() > 1',
        '"bias" not in name and parameter.dim() == 2',
        "rl/optim",
    ),
    Mutant(
        "an orphan among parameters",
        "rl/optim.py",
        "(count := owners.get(id(p), 0)) != 1",
        "(count := owners.get(id(p), 0)) > 1",
        "rl/optim",
    ),
    Mutant(
        "two owners of one parameter",
        "rl/optim.py",
        "(count := owners.get(id(p), 0)) != 1",
        "(count := owners.get(id(p), 0)) < 1",
        "rl/optim",
    ),
    Mutant("owners of networks that were moved", "rl/optim.py", "if optimizer.is_stale:", "if False:", "rl/optim"),
    Mutant(
        "a frozen parameter needs an owner", "rl/optim.py", "if p.requires_grad and (count", "if (count", "rl/optim"
    ),
    Mutant(
        "a parameter out of the loss is left as it is",
        "rl/optim.py",
        "raise UserError(_unused(loss, [optimizer, *others])) from error",
        "return loss",
        "rl/optim contracts/encoders",
    ),
    Mutant(
        "a second optimizer takes the first one's gradients",
        "rl/optim.py",
        "start = len(optimizer.parameters)\n",
        "start = 0\n",
        "rl/optim",
    ),
    Mutant(
        "a second optimizer stands still",
        "rl/optim.py",
        "        other.apply_autograd(gradients[start",
        "        id(gradients[start",
        "rl/optim",
    ),
    Mutant(
        "settings: a list stays one",
        "rl/settings.py",
        "object.__setattr__(config, name, tuple(value))",
        "pass",
        "rl/settings",
    ),
    Mutant(
        "settings: a whole float stays one",
        "rl/settings.py",
        "object.__setattr__(config, name, int(value))",
        "pass",
        "rl/settings",
    ),
    Mutant(
        "settings: former names are forgotten",
        "rl/settings.py",
        "values, lines = current_names(made, values)",
        "lines: list[str] = []",
        "rl/settings",
    ),
    Mutant(
        "settings: former names are taken in silence",
        "rl/settings.py",
        "        for line in lines:\n",
        "        for line in lines[:0]:\n",
        "rl/settings",
    ),
    # What an environment lost with its process
    Mutant("n-step across a restart", "rl/buffers/replay.py", "np.where(step.valid, row, NONE)", "row", "rl/restarts"),
    Mutant("lambda across a restart", "rl/buffers/rollout.py", 'arrays["valid"][1:] == 0.0', "False", "rl/restarts"),
    Mutant(
        "goals from behind a restart",
        "rl/buffers/hindsight.py",
        "self.current[~step.valid] = NONE",
        "pass",
        "rl/restarts",
    ),
    Mutant(
        "a candidate pays for a cut-off episode",
        "rl/evolution/population.py",
        "self._episode_cost[~step.valid] = 0.0",
        "pass",
        "rl/restarts",
    ),
    Mutant("costs are summed across a restart", "rl/norm.py", " | (valid[t] == 0)", "", "rl/restarts"),
    Mutant(
        "a restarted row is learnt from",
        "rl/loop.py",
        "at.reset_row, any_reset = at.reset_row | restarted, True",
        "pass",
        "rl/restarts",
    ),
    # Files
    Mutant(
        "tensors have no digest",
        "rl/checkpoint.py",
        'if found != outer["tensors_sha256"]:',
        "if False:",
        "rl/checkpoint",
    ),
    Mutant(
        "a reader mixes two checkpoints",
        "rl/checkpoint.py",
        "if _stands(meta, folder / META) if",
        "if True if",
        "rl/checkpoint",
    ),
    Mutant("weights may be anything", "rl/checks.py", "    if is_finite:\n", "    if False:\n", "rl/checkpoint"),
    Mutant(
        "sizes are not looked at", "rl/agent_files.py", "        if count > held:", "        if False:", "rl/checkpoint"
    ),
    Mutant(
        "a worker keeps the lock", "rl/files.py", "after_in_child=_close_in_child", "after_in_child=dict", "rl/files"
    ),
    Mutant("a leftover is in the way", "rl/files.py", "-{secrets.token_hex(6)}", "", "rl/files rl/checkpoint"),
]
