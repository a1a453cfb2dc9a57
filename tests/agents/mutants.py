"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # Returns
    Mutant(
        "advantage's sign", "agents/a2c.py", "advantage = returns - value", "advantage = value - returns", "agents/a2c"
    ),
    Mutant(
        "before and after swapped",
        "agents/a2c.py",
        "value, next_value = to_numpy",
        "next_value, value = host",
        "agents/a2c",
    ),
    Mutant(
        "reset rows weigh in the advantage's size",
        "agents/a2c.py",
        "(advantage * advantage * weight).sum()",
        "(advantage * advantage).mean()",
        "agents/a2c contracts/agents",
    ),
    Mutant("the advantage's size forgets", "agents/a2c.py", "(0.05 if self.updates else 1.0)", "1.0", "agents/a2c"),
    Mutant(
        "reset rows weigh in the actor's loss",
        "agents/a2c.py",
        "unit = row.weight / (",
        "unit = torch.full_like(row.weight, 1 / len(row.weight)) / (",
        "agents/a2c contracts/agents",
    ),
    # Gradients
    Mutant(
        "control variate after C has seen the returns",
        "agents/a2c.py",
        'if self.config.actor_gradient == "pathwise":  #',
        'if self.config.actor_gradient != "score":  #',
        "agents/a2c",
    ),
    Mutant(
        "entropy counted twice",
        "agents/a2c.py",
        "- self.config.entropy_coef * (pi",
        "- 2 * self.config.entropy_coef * (pi",
        "agents/a2c",
    ),
    Mutant(
        "entropy's sign",
        "agents/a2c.py",
        "- self.config.entropy_coef * (pi",
        "+ self.config.entropy_coef * (pi",
        "agents/a2c",
    ),
    # Actors
    Mutant(
        "predict draws from training's generator",
        "rl/networks/acting.py",
        "generator=self.predict_generator)",
        "generator=self.generator)",
        "agents/a2c contracts/agents",
    ),
    # Normalisation and optimisers
    Mutant(
        "normaliser updated before its use",
        "agents/a2c.py",
        "row = self._targets(rollout)",
        "self.critic.obs_norm.update(flat(rollout.obs)); row = self._targets(rollout)",
        "agents/a2c contracts/agents",
    ),
    Mutant(
        "normaliser counts reset rows",
        "agents/a2c.py",
        "update(flat(rollout.obs), flat(rollout.valid))",
        "update(flat(rollout.obs))",
        "agents/a2c contracts/agents",
    ),
    # PPO
    Mutant(
        "ppo: ratio upside down",
        "agents/ppo.py",
        "actor.pi.log_prob(batch.sample) - batch.log_prob",
        "batch.log_prob - actor.pi.log_prob(batch.sample)",
        "agents/ppo",
    ),
    Mutant(
        "ppo: old policy is the new",
        "agents/ppo.py",
        "- batch.log_prob\n",
        "- actor.pi.log_prob(batch.sample)\n",
        "agents/ppo",
    ),
    Mutant(
        "ppo: advantage's sign",
        "agents/ppo.py",
        "advantage = returns - value",
        "advantage = value - returns",
        "agents/ppo",
    ),
    Mutant(
        "ppo: advantages not centred",
        "agents/ppo.py",
        "advantage -= (advantage * weight).sum()",
        "advantage -= 0",
        "agents/ppo",
    ),
    Mutant(
        "ppo: reset rows in the advantages' size",
        "agents/ppo.py",
        "(advantage * advantage * weight).sum()",
        "(advantage * advantage).mean()",
        "agents/ppo",
    ),
    Mutant(
        "ppo: before and after swapped",
        "agents/ppo.py",
        "value, next_value = to_numpy",
        "next_value, value = host",
        "agents/ppo",
    ),
    Mutant("ppo: entropy's sign", "agents/ppo.py", "-c.entropy_coef * weight", "c.entropy_coef * weight", "agents/ppo"),
    Mutant("ppo: entropy twice", "agents/ppo.py", "-c.entropy_coef *", "-2 * c.entropy_coef *", "agents/ppo"),
    Mutant("ppo: never stops", "agents/ppo.py", "if self.config.target_kl and", "if False and", "agents/ppo"),
    Mutant("ppo: stops without a bound", "agents/ppo.py", "if self.config.target_kl and", "if", "agents/ppo"),
    Mutant(
        "ppo: divergence's sign", "agents/ppo.py", "(ratio.expm1() - ratio)", "(-ratio.expm1() + ratio)", "agents/ppo"
    ),
    Mutant("ppo: one epoch", "agents/ppo.py", "range(self.config.epochs)", "range(1)", "agents/ppo"),
    Mutant(
        "ppo: tells of the last part", "agents/ppo.py", "batch.share for", "batch.share.detach() * 0 for", "agents/ppo"
    ),
    Mutant(
        "ppo: value before in units of cost",
        "agents/ppo.py",
        "_replace(returns=returns, value=value)",
        "_replace(returns=returns)",
        "agents/ppo",
    ),
    Mutant(
        "ppo: returns learnt in units of cost",
        "agents/ppo.py",
        "_replace(returns=returns, value=value)",
        "_replace(value=value)",
        "agents/ppo",
    ),
    Mutant(
        "ppo: value clip not handed on",
        "agents/ppo.py",
        "batch.value, c.value_clip)",
        "batch.value, 0.0)",
        "agents/ppo",
    ),
    # REPPO
    Mutant(
        "reppo: entropy counted after termination",
        "agents/reppo.py",
        "rollout.cost - rollout.discount * worth",
        "rollout.cost - self.config.gamma * worth",
        "agents/reppo",
    ),
    Mutant(
        "reppo: entropy a cost",
        "agents/reppo.py",
        "rollout.cost - rollout.discount *",
        "rollout.cost + rollout.discount *",
        "agents/reppo",
    ),
    Mutant(
        "reppo: entropy counted twice",
        "agents/reppo.py",
        "rollout.cost - rollout.discount *",
        "rollout.cost - 2 * rollout.discount *",
        "agents/reppo",
    ),
    Mutant(
        "reppo: entropy not in units of cost", "agents/reppo.py", ".exp()) * self.unit.value", ".exp())", "agents/reppo"
    ),
    Mutant(
        "reppo: entropy in units that follow it",
        "agents/reppo.py",
        ".exp()) * self.unit.value",
        ".exp() * self.critic.cost_scale.scale)",
        "agents/reppo",
    ),
    Mutant(
        "reppo: gate reversed",
        "agents/reppo.py",
        "torch.where(kl < kl_bound,",
        "torch.where(kl > kl_bound,",
        "agents/reppo",
    ),
    Mutant(
        "reppo: gate always open",
        "agents/reppo.py",
        "torch.where(kl < kl_bound,",
        "torch.where(kl < math.inf,",
        "agents/reppo",
    ),
    Mutant(
        "reppo: gate cannot be left out", "agents/reppo.py", " if self.config.kl_gate else math.inf", "", "agents/reppo"
    ),
    Mutant(
        "reppo: pushed away instead of back",
        "agents/reppo.py",
        "alpha * entropy, beta * kl)",
        "alpha * entropy, -beta * kl)",
        "agents/reppo",
    ),
    Mutant(
        "reppo: entropy's sign in the actor",
        "agents/reppo.py",
        "cost - alpha * entropy",
        "cost + alpha * entropy",
        "agents/reppo",
    ),
    Mutant(
        "reppo: old policy is the new",
        "agents/reppo.py",
        "type(pi).of(batch.old).kl(pi)",
        "type(pi).of(pi.columns().detach()).kl(pi)",
        "agents/reppo",
    ),
    Mutant(
        "reppo: divergence the other way",
        "agents/reppo.py",
        "type(pi).of(batch.old).kl(pi)",
        "pi.kl(type(pi).of(batch.old))",
        "agents/reppo",
    ),
    Mutant(
        "reppo: alpha's sign",
        "agents/reppo.py",
        "missing = (self.entropy_target - entropy)",
        "missing = (entropy - self.entropy_target)",
        "agents/reppo",
    ),
    Mutant(
        "reppo: beta's sign",
        "agents/reppo.py",
        "excess = kl / (self.config.kl_bound * self.pace + 1e-9) - 1",
        "excess = 1 - kl / (self.config.kl_bound * self.pace + 1e-9)",
        "agents/reppo",
    ),
    Mutant(
        "reppo: entropy target's sign",
        "agents/reppo.py",
        "c.entropy_target * most",
        "-c.entropy_target * most",
        "agents/reppo",
    ),
    Mutant(
        "reppo: C's gradient in units of cost",
        "agents/reppo.py",
        "sample) / self.unit.value",
        "sample)",
        "agents/reppo",
    ),
    Mutant(
        "reppo: a first rollout longer than the warmup teaches the actor",
        "agents/reppo.py",
        "warm = self.steps >= self.config.critic_warmup\n        self.steps += int(rollout.valid.sum())",
        "self.steps += int(rollout.valid.sum())\n        warm = self.steps > self.config.critic_warmup",
        "agents/reppo",
    ),
    Mutant(
        "a2c: a first rollout longer than the warmup teaches the actor",
        "agents/a2c.py",
        "warm = self.steps >= self.config.critic_warmup\n        self.steps += int(rollout.valid.sum())",
        "self.steps += int(rollout.valid.sum())\n        warm = self.steps > self.config.critic_warmup",
        "agents/a2c",
    ),
    Mutant(
        "guided es: as many directions as guides",
        "agents/guided_es.py",
        "torch.randn(c.directions, basis.shape[1],",
        "torch.randn(c.directions, count,",
        "agents/gradient_free",
    ),
    Mutant(
        "reppo: actor learns during the warmup",
        "agents/reppo.py",
        "warm = self.steps >= self.config.critic_warmup",
        "warm = True",
        "agents/reppo",
    ),
    Mutant(
        "reppo: actor's step taken by C's optimizer",
        "agents/reppo.py",
        "norm = descend(self.actor_optimizer, loss)",
        "norm = self.critic_optimizer.apply(self.critic_optimizer._slots) + descend(self.actor_optimizer, loss)",
        "agents/reppo",
    ),
    Mutant(
        "reppo: multipliers wind up",
        "agents/reppo.py",
        "return self.actor_optimizer.current_lr / (self.config.actor_lr or 1.0)",
        "return 1.0",
        "agents/reppo",
    ),
    Mutant(
        "reppo: the bound stays wide",
        "agents/reppo.py",
        "bound = self.config.kl_bound * self.pace if",
        "bound = self.config.kl_bound if",
        "agents/reppo",
    ),
    Mutant(
        "reppo: multipliers leap", "agents/reppo.py", "missing_entropy.clamp(-1, 1)", "missing_entropy", "agents/reppo"
    ),
    Mutant(
        "reppo: entropy missed is counted as a whole",
        "agents/reppo.py",
        "- entropy) / self.dimensions",
        "- entropy)",
        "agents/reppo",
    ),
    # What weighs, lasts and is remembered in a replay
    Mutant(
        "sac: the temperature sees entropy by weights of sum below 1",
        "agents/sac.py",
        "entropy @ batch.weight / batch.weight.sum()",
        "entropy @ batch.weight",
        "agents/off_policy",
    ),
    # Off-policy
    Mutant("crossq: the cheaper critic", "agents/crossq.py", ".amax(0)", ".amin(0)", "agents/crossq"),
    Mutant(
        "crossq: the next state passes alone", "agents/crossq.py", "net.training = True", "net.eval()", "agents/crossq"
    ),
    Mutant(
        "crossq: a state learns with the next one's slope",
        "agents/crossq.py",
        "output, following = through",
        "following, output = through",
        "agents/crossq",
    ),
    Mutant("crossq: entropy a cost", "agents/crossq.py", "expected - worth", "expected + worth", "agents/crossq"),
    Mutant(
        "crossq: the actor's step uses the batch's statistics",
        "agents/crossq.py",
        "self.critic.net.training = False\n        output",
        "output",
        "agents/crossq",
    ),
    Mutant(
        "crossq: the scale sees one batch in twenty",
        "rl/networks/heads.py",
        "torch.maximum(self.outermost, torch.stack((-low, high)), out=self.outermost)",
        "self.outermost.copy_(torch.stack((-low, high)))",
        "agents/crossq",
    ),
    Mutant(
        "crossq: no delay", "agents/crossq.py", "self.updates % self.config.policy_delay == 0", "True", "agents/crossq"
    ),
    Mutant(
        "soft cost: the cheaper critic",
        "rl/gradients/entropy.py",
        "masks).amax(0)",
        "masks).amin(0)",
        "agents/off_policy",
    ),
    Mutant(
        "soft cost: the dearer critic of a choice",
        "rl/gradients/entropy.py",
        "masks=masks).mean(0)",
        "masks=masks).amax(0)",
        "agents/off_policy",
    ),
    Mutant(
        "soft cost: entropy a cost",
        "rl/gradients/entropy.py",
        "amax(0) - alpha",
        "amax(0) + alpha",
        "agents/off_policy",
    ),
    Mutant(
        "soft cost: temperature's sign",
        "rl/gradients/entropy.py",
        "entropy - self.target",
        "self.target - entropy",
        "agents/crossq",
    ),
    Mutant("td3: the cheaper critic", "agents/td3.py", ".amax(0)", ".amin(0)", "agents/off_policy"),
    Mutant(
        "td3: noise is not clipped",
        "agents/td3.py",
        "(c.target_noise * noise).clamp(-c.noise_clip, c.noise_clip)",
        "c.target_noise * noise",
        "agents/off_policy",
    ),
    Mutant(
        "td3: the target is the critic",
        "agents/td3.py",
        "critic = self.target_critic.copy",
        "critic = self.critic",
        "agents/off_policy",
    ),
    Mutant(
        "td3: no delay", "agents/td3.py", "self.updates % self.config.policy_delay == 0", "True", "agents/off_policy"
    ),
    Mutant(
        "a target goes the rest of the way",
        "rl/optim.py",
        "flat, self.tau)",
        "flat, 1 - self.tau)",
        "agents/off_policy",
    ),
    # Search without gradients
    Mutant(
        "search: ARS climbs",
        "agents/ars.py",
        "self.policies.center - step",
        "self.policies.center + step",
        "agents/gradient_free",
    ),
    Mutant(
        "search: guided ES never looks at C",
        "agents/guided_es.py",
        "if count := min(self.guided, c.subspace):",
        "if (count := min(self.guided, c.subspace)) < 0:",
        "agents/gradient_free",
    ),
]
