"""The computational graph of an agent as nodes and edges, read from its actual modules: data flow and gradient flow.

The notation is that of energy-based models: observed variables, computed variables, deterministic functions, and scalar
costs. rl/drawing/paint.py paints it.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from costgrad.rl.agent_files import agent_name
from costgrad.rl.buffers.replay import Replay
from costgrad.rl.buffers.rollout import RolloutMemory
from costgrad.rl.errors import UserError
from costgrad.rl.networks.actor import CategoricalActor, DeterministicActor, GaussianActor
from costgrad.rl.networks.critic import Critic
from costgrad.rl.networks.mlp import MLP

PI, LAMBDA, SUM, EPSILON, THETA, DASH = "\u03c0", "\u03bb", "\u03a3", "\u03b5", "\u03b8", "\u2013"
Kind = Literal["observed", "computed", "function", "network", "cost", "black_box", "rollout", "replay"]
Flow = Literal["data", "constant", "blocked", "fit", "pathwise", "score", "search"]
Way = Literal["pathwise", "score", "control_variate", "search"]
WAYS: dict[Way, str] = {
    "pathwise": "pathwise gradient, through C to the actor",
    "score": "score-function gradient, with C as the baseline",
    "control_variate": "pathwise gradient through C, plus the score-function gradient of the residual",
    "search": "gradient-free: parameters are perturbed, and the costs of episodes compared",
}


class Node(NamedTuple):
    """A variable, a function or a cost."""

    key: str  # one of PLACES in rl/drawing/layout.py
    kind: Kind
    name: str  # a symbol or a word
    lines: tuple[str, ...] = ()  # caption
    layers: tuple[int, ...] = ()  # of a network: output widths of the layers, first to last
    copies: int = 1  # of an ensemble


class Edge(NamedTuple):
    """Data or gradients from one node to another; gradients flow against the data."""

    source: str
    target: str
    flow: Flow = "data"
    label: str = ""


class Graph(NamedTuple):
    """An agent."""

    title: str
    subtitle: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def describe(agent: Any, env: str = "environment") -> Graph:
    """The graph of an agent, which is not changed.

    Args:
        agent: has `actor`, `codec` and `config`; `critic`, `target_critic` and `memory` are optional.
        env: name of the environment.

    Raises:
        UserError: it has no actor to draw.
    """
    for name in ("actor", "codec", "config"):
        if getattr(agent, name, None) is None:
            raise UserError(f"agent {agent_name(agent)} cannot be drawn: it has no {name}")
    way = way_of(agent)
    subtitle = WAYS[way]
    if way != "search":
        subtitle = f"{'off' if _replays(agent) else 'on'}-policy: {subtitle}"
    nodes, edges = _acting(agent, env)
    more = _searching(agent) if way == "search" else _learning(agent, way)
    return Graph(f"{type(agent).__name__} on {env}", subtitle, (*nodes, *more[0]), (*edges, *more[1]))


def way_of(agent: Any) -> Way:
    """The kind of the actor's gradient."""
    learns = isinstance(getattr(agent, "memory", None), Replay | RolloutMemory)
    if getattr(agent, "critic", None) is None or not learns or _searches(agent):
        return "search"
    by_state = agent.critic.spec.action == "none"
    way: Way = getattr(agent.config, "actor_gradient", "score" if by_state else "pathwise")
    return way


def _acting(agent: Any, env: str) -> tuple[list[Node], list[Edge]]:
    """From the observation to the reward."""
    codec, actor = agent.codec, agent.actor
    net = getattr(actor, "net", None)
    size = len(codec.choices) if codec.multi else codec.action_size
    of = "choice" if codec.multi else "number"
    action = f"1 of {size}" if codec.discrete and not codec.multi else f"{size} {of}{'s' * (size > 1)}"
    nodes = [
        Node("obs", "observed", "s", ("observation", _shape(codec.obs_shape))),
        network("actor", "actor", actor, net),
        Node("action", "computed", "a", ("action", action)),
        Node("env", "black_box", env, ("black box,", "not differentiable")),
        Node("reward", "observed", "r", ("reward,", "cost = -r")),
    ]
    edges = [Edge("action", "env"), Edge("env", "reward"), Edge("reward", "env", "blocked")]
    edges.append(Edge("env", "obs", label="next observation s'"))
    if getattr(agent.config, "normalize_obs", False):
        each = "channel" if len(codec.obs_shape) == 3 else "entry"
        nodes.append(Node("norm", "function", "norm", ("mean 0,", "variance 1", f"per {each}")))
        edges += [Edge("obs", "norm"), Edge("norm", "actor")]
    else:
        edges.append(Edge("obs", "actor"))
    noise, *lines = _policy(actor, noisy=not _searches(agent))
    nodes.append(Node("policy", "function", PI, tuple(lines)))
    edges += [Edge("actor", "policy"), Edge("policy", "action")]
    if noise:
        nodes.append(Node("noise", "observed", EPSILON, (noise, _shape(getattr(actor, "noise_shape", ())))))
        edges.append(Edge("noise", "policy"))
    return nodes, edges


def _policy(actor: Any, noisy: bool) -> tuple[str, ...]:
    """The noise of a policy ("" for none), then how it turns the network's output into an action."""
    if isinstance(actor, CategoricalActor):
        return ("Gumbel noise", "softmax,", "arg max") if noisy else ("", "arg max")
    if isinstance(actor, GaussianActor):
        return "normal noise", "Gaussian,", "std(s)," if actor.state_std else "constant std,", "tanh"
    if isinstance(actor, DeterministicActor):
        return ("normal noise", "tanh,", f"noise {actor.noise_std:g}") if noisy else ("", "tanh")
    return "", "action from", "the output"


def network(key: str, name: str, module: Any, net: Any, copies: int = 1) -> Node:
    """The node of a network: its layers, activation and normalisation, and the parameter count of its module."""
    count = sum(parameter.numel() for parameter in module.parameters())
    lines = [f"{count:,} parameters"]
    if not isinstance(net, MLP):
        return Node(key, "network", name, tuple(lines), (), copies)
    between: list[str] = [net.activation] if len(net.sizes) > 2 else ["linear"]
    if len(net.gains):
        between.insert(0, "batch norm" if hasattr(net, "mean_0") else "layer norm")
    if net.dropout:
        between.append(f"dropout {net.dropout:g}")
    return Node(key, "network", name, (*lines, ", ".join(between)), tuple(net.sizes[1:]), copies)


def _learning(agent: Any, way: Way) -> tuple[list[Node], list[Edge]]:
    """Buffer, C, the target of C, and the gradient's path to the actor."""
    critic, config = agent.critic, agent.config
    features = "norm" if getattr(config, "normalize_obs", False) else "obs"
    takes_action = critic.spec.action in ("box", "one_hot")
    of = {"none": ")", "discrete": f", a), all {critic.heads} a"}
    nodes = [
        network("critic", "C", critic, critic.net, critic.spec.ensemble),
        Node("value", "computed", "C", (f"C(s{of.get(critic.spec.action, ', a)')}", _head(critic))),
        Node("fit", "cost", "loss", ("cross-", "entropy") if critic.spec.head == "hl_gauss" else ("squared", "error")),
    ]
    edges = [Edge(features, "critic"), Edge("critic", "value"), Edge("value", "fit"), Edge("target", "fit")]
    edges += [Edge("fit", "value", "fit"), Edge("value", "critic", "fit"), Edge("reward", "memory")]
    edges += [Edge("action", "critic")] if takes_action else []
    for more in (_memory(agent), _actor_gradient(agent, way)):
        nodes += more[0]
        edges += more[1]
    return nodes, edges


def _memory(agent: Any) -> tuple[list[Node], list[Edge]]:
    """The rollout or replay buffer, and the target of C."""
    c, critic = agent.config, agent.critic
    entropy = ("minus entropy bonus",) if _soft(agent) else ()
    if not _replays(agent):
        passes = getattr(c, "critic_passes", getattr(c, "epochs", 1))
        nodes = [
            Node("memory", "rollout", "rollout", (f"{agent.memory.num_steps} steps per env,", f"{passes} passes")),
            Node("target", "function", "G", (f"{LAMBDA}-return of costs, {LAMBDA} {c.gae_lambda:g}", *entropy)),
        ]
        edges = [Edge("memory", "obs", label="on-policy: the latest rollout, then it is dropped")]
        return nodes, [*edges, Edge("memory", "target", label="costs"), Edge("value", "target", "constant")]
    n_step = agent.memory.n_step
    nodes = [Node("memory", "replay", "replay", (f"the last {agent.memory.capacity:,}", "transitions"))]
    edges = [Edge("memory", "obs", label=f"off-policy: random batches of {c.batch_size}")]
    edges.append(Edge("memory", "target", label="costs"))
    if (copy := getattr(agent, "target_critic", None)) is not None:
        both = ("and target actor",) if getattr(agent, "target_actor", None) is not None else ()
        lines = ("Polyak averaging,", f"tau {copy.tau:g}", *both)
        nodes.append(Node("target_critic", "function", "target C", lines, copies=critic.spec.ensemble))
        edges += [Edge("critic", "target_critic", "constant"), Edge("memory", "target_critic", label="s'")]
        edges.append(Edge("target_critic", "target", "constant", "cost of the next state"))
        bootstrap = "bootstraps from target C"
    else:
        edges.append(Edge("value", "target", "constant"))
        bootstrap = "bootstraps from C, in one pass" if critic.spec.batch_norm else "bootstraps from C"
    return [*nodes, Node("target", "function", "G", (f"{n_step}-step TD target,", bootstrap, *entropy))], edges


def _actor_gradient(agent: Any, way: Way) -> tuple[list[Node], list[Edge]]:
    """The costs that the actor minimises, and the edges of their gradient."""
    c, critic, box = agent.config, agent.critic, agent.critic.spec.action == "box"
    nodes: list[Node] = []
    edges: list[Edge] = []
    if way != "score":
        many, how, sign = critic.spec.ensemble, "mean", "~"
        if isinstance(agent.actor, DeterministicActor):
            how, sign = "first", "="
        elif getattr(agent, "temperature", None) is not None and box:
            how = "maximum"
        each = "a_d" if critic.spec.action == "one_hot" else "a"  # one choice at a time, the others sampled
        what = f"C(s, a), a {sign} {PI}" if box else f"{SUM} {PI}({each}|s) C(s, a)"
        lines = [what] + ([f"{how} of {many}"] if many > 1 else [])
        if way == "pathwise":
            lines += ["minus entropy bonus"] if _soft(agent) or getattr(c, "ent_coef", 0) > 0 else []
            lines += [f"while KL < {c.kl_bound:g}"] if getattr(c, "kl_gate", False) else []
        nodes.append(Node("cost", "cost", "E C", tuple(lines)))
        back = ("value", "critic", "action", "policy") if box else ("policy",)
        # For discrete actions the gradient runs through their probabilities, and C is a constant.
        edges += [
            Edge("value", "cost", "data" if box else "constant"),
            *([] if box else [Edge("policy", "cost", label=f"{PI}(a|s)")]),
        ]
        edges += [Edge(a, b, "pathwise") for a, b in zip(("cost", *back), (*back, "actor"), strict=True)]
    if way != "pathwise":
        residual = f"G {DASH} C(s, a)" if way == "control_variate" else f"G {DASH} C(s)"
        clip = (f"clipped at 1 \u00b1 {c.clip_range:g}",) if getattr(c, "clip_range", 0) else ()
        nodes.append(
            Node("advantage", "computed", "A", ("residual" if way == "control_variate" else "advantage", residual))
        )
        nodes.append(Node("score", "cost", "A ratio" if clip else f"A log {PI}", clip))
        edges += [Edge("target", "advantage", "constant"), Edge("value", "advantage", "constant")]
        edges += [Edge("action", "score", label=f"log {PI}(a|s)"), Edge("advantage", "score", "constant")]
        edges += [Edge("score", "policy", "score"), Edge("policy", "actor", "score")]
    return nodes, edges


def _searching(agent: Any) -> tuple[list[Node], list[Edge]]:
    """Gradient-free search: noise on the parameters, and the costs of whole episodes."""
    finds = getattr(agent, "finds", "of the gradient,")
    nodes = [
        Node("perturbation", "observed", EPSILON, ("noise on the", f"parameters {THETA}")),
        Node("episodes", "cost", "cost", ("of whole episodes,", f"{DASH} {SUM} r")),
        Node("estimate", "function", "estimate", (finds, "from candidates' costs")),
    ]
    edges = [Edge("perturbation", "actor"), Edge("perturbation", "estimate"), Edge("reward", "episodes")]
    edges += [Edge("episodes", "estimate", label="one cost per candidate"), Edge("estimate", "actor", "search")]
    if isinstance(critic := getattr(agent, "critic", None), Critic):
        nodes.append(network("critic", "C", critic, critic.net, critic.spec.ensemble))
        edges.append(Edge("critic", "estimate", "pathwise", "guides"))
    return nodes, edges


def _head(critic: Critic) -> str:
    """The kind of C's output."""
    if critic.spec.head == "hl_gauss":
        return (f"{critic.spec.ensemble} x " if critic.spec.ensemble > 1 else "") + f"{critic.spec.bins} cost bins"
    return "scalar" if critic.spec.ensemble == 1 else f"{critic.spec.ensemble} scalars"


def _soft(agent: Any) -> bool:
    """Whether entropy is part of the cost."""
    return any(getattr(agent, name, None) is not None for name in ("temperature", "multipliers"))


def _searches(agent: Any) -> bool:
    """Whether it is a gradient-free search; C, if there is one, only guides it."""
    return hasattr(agent, "population")


def _replays(agent: Any) -> bool:
    return isinstance(agent.memory, Replay)


def _shape(shape: tuple[int, ...]) -> str:
    """A shape as text: [4], or [84 x 84 x 3]; a scalar is [1]."""
    return f"[{' x '.join(str(n) for n in shape) or math.prod(shape)}]"
