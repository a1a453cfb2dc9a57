"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # What the environment says
    Mutant(
        "images are kept as floats",
        "rl/observations.py",
        "np.uint8 if keep_uint8",
        "np.float32 if keep_uint8",
        "contracts/images",
    ),
    # Backpropagation by hand
    Mutant(
        "ppo: normaliser counts reset rows",
        "agents/ppo.py",
        "update(flat(rollout.obs), flat(rollout.valid))",
        "update(flat(rollout.obs))",
        "contracts/agents",
    ),
    Mutant(
        "ppo: state without its optimizer",
        "agents/ppo.py",
        '        self.parts["optimizer"] = self.optimizer\n',
        "",
        "contracts/agents",
    ),
    # REPPO
    Mutant(
        "reppo: state without its multipliers",
        "agents/reppo.py",
        '"multipliers": self.multipliers, ',
        "",
        "contracts/agents",
    ),
    # Encoders
    Mutant(
        "encoder: the actor's loss trains it against its choice",
        "rl/networks/encoder.py",
        "return features if self.learns else features.detach()",
        "return features",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: the actor's loss never trains a shared one",
        "rl/networks/encoder.py",
        "return features if self.learns else features.detach()",
        "return features.detach()",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: a soft actor makes C's features cheap",
        "rl/gradients/losses.py",
        "critic.encode(x).detach(), pi, sample",
        "critic.encode(x), pi, sample",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: a factory draws from the global generator",
        "rl/networks/encoder.py",
        "with torch.random.fork_rng(devices=[]):",
        "if True:",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: a user's module is not copied",
        "rl/networks/encoder.py",
        "return Encoder(deepcopy(encoder), obs)",
        "return Encoder(encoder, obs)",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: acts in training mode",
        "rl/networks/numpy_forward.py",
        "            module.eval()\n",
        "            pass\n",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: stays in evaluation mode",
        "rl/networks/numpy_forward.py",
        "module.train(was)",
        "pass",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: a target keeps its first statistics",
        "rl/optim.py",
        "mine.copy_(theirs)",
        "pass",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: td3's target actor reads C's own",
        "agents/td3.py",
        "self.target_actor.copy.encoder = SharedEncoder",
        "_ = SharedEncoder",
        "contracts/encoders",
    ),
    Mutant(
        "encoder: goes by hand all the same",
        "rl/gradients/fast.py",
        "if module.encoder is not None:",
        "if False:",
        "contracts/encoders",
    ),
    Mutant(
        "networks set later are not noticed",
        "rl/loop.py",
        "        check()\n",
        "        pass\n",
        "contracts/encoders",
    ),
    # A run that goes on
    Mutant(
        "noise is drawn anew", "rl/networks/acting.py", 'state["noise"] = ', 'state["unused"] = ', "contracts/resume"
    ),
    Mutant(
        "an unfinished rollout is lost",
        "rl/buffers/rollout.py",
        "        self.filled = filled\n",
        "",
        "contracts/resume",
    ),
    Mutant(
        "no row follows the newest",
        "rl/buffers/replay.py",
        'self._newest = state_dict["newest"]',
        'unused = state_dict["newest"]',
        "contracts/resume",
    ),
    Mutant(
        "candidates start again",
        "rl/evolution/population.py",
        'if "playing" in state_dict:',
        "if False:",
        "contracts/resume",
    ),
    Mutant(
        "episodes start again",
        "rl/runs/resume.py",
        '    return at, ""\n',
        '    return UnderWay(), ""\n',
        "contracts/resume",
    ),
]
