"""The drawing of an agent: what it says comes from the real modules, and it can be read."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from costgrad.agents import A2C, AGENTS, A2CConfig
from costgrad.rl.drawing.describe import Graph, Node, describe, way_of
from costgrad.rl.drawing.layout import PLACES
from costgrad.rl.drawing.paint import MARK, draw, pictures
from costgrad.rl.drawing.shapes import SCALE
from costgrad.rl.errors import UserError
from costgrad.rl.runs.train import train
from tests.fakes import Remade, fake

OBS = {"vector": spaces.Box(-1, 1, (5,), np.float32), "image": spaces.Box(0, 255, (9, 8, 3), np.uint8)}
ACTIONS = {
    "discrete": spaces.Discrete(4),
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "multi": spaces.MultiDiscrete([3, 4]),
    "many": spaces.MultiDiscrete([9, 9, 9]),  # too many to list
}
ON_POLICY, OFF_POLICY = ("a2c", "ppo", "reppo"), ("crossq", "sac", "td3")
SEARCH = tuple(name for name in AGENTS if name not in ON_POLICY + OFF_POLICY)
LONG = "costgrad/OneStepQuadratic-v0"


def agent(name: str = "a2c", obs: str = "vector", action: str = "box", **config: Any) -> Any:
    cls, config_cls = AGENTS[name]
    return cls(OBS[obs], ACTIONS[action], config_cls(**config))


def searching(critic: bool = False, **config: Any) -> Any:
    """An agent without rollout or replay, as gradient-free ones are."""
    like = agent(**config)
    parts = {"actor": like.actor, "codec": like.codec, "config": like.config}
    return SimpleNamespace(**parts, **({"critic": like.critic} if critic else {}))


def node(graph: Graph, key: str) -> Node:
    (found,) = (node for node in graph.nodes if node.key == key)
    return found


def flows(graph: Graph, *kinds: str) -> set[tuple[str, str, str]]:
    return {(edge.source, edge.target, edge.flow) for edge in graph.edges if edge.flow in kinds}


def gradients(agent: Any) -> set[tuple[str, str, str]]:
    return flows(describe(agent), "pathwise", "score", "search")


def possible() -> list[Any]:
    cases = []
    for name in AGENTS:
        for obs, action in (*((("vector", action)) for action in ACTIONS), ("image", "discrete"), ("image", "box")):
            if (name == "td3" and action != "box") or (name in ("sac", "crossq", "guidedes") and action == "many"):
                continue
            cases.append(pytest.param(name, obs, action, id=f"{name}-{obs}-{action}"))
    return cases


# What it says.


def test_widths_and_parameters_are_those_of_the_modules() -> None:
    for made in (agent(hidden=(7, 31)), agent("reppo", hidden=(16, 16, 16), head="regression"), agent("td3")):
        graph = describe(made)
        for key, module in (("actor", made.actor), ("critic", made.critic)):
            count = sum(parameter.numel() for parameter in module.parameters())
            assert node(graph, key).lines[0] == f"{count:,} parameters"
            assert node(graph, key).layers == tuple(weight.shape[-1] for weight in module.net.weights)


def test_the_texts_follow_the_settings() -> None:
    def said(**config: Any) -> str:
        return str(describe(agent(**config)))

    plain = said()
    for text, config in {
        "cross-": {"head": "hl_gauss", "bins": 33},
        "33 cost bins": {"head": "hl_gauss", "bins": 33},
        "copies=5": {"n_critics": 5},
        "mean of 5": {"n_critics": 5},
        "dropout 0.2": {"dropout": 0.2},
        "'relu'": {"activation": "relu", "layer_norm": False},
        "23 steps of each": {"num_steps": 23},
        "7 passes": {"critic_passes": 7},
        "0.31": {"gae_lambda": 0.31},
        "spread of s": {"state_std": True},
    }.items():
        assert text in said(**config) and text not in plain, text
    assert "variance 1" in plain and "variance 1" not in said(normalize_obs=False)
    assert "per channel" in str(describe(agent(obs="image")))
    assert "batch norm" in str(describe(agent("crossq"))) and "clipped at 1 \u00b1 0.3" in str(
        describe(agent("ppo", clip_range=0.3))
    )


def test_c_takes_an_action_where_it_does() -> None:
    def takes(**which: Any) -> bool:
        return ("action", "critic", "data") in flows(describe(agent(**which)), "data")

    assert takes(action="box") and takes(action="many")
    assert not takes(action="discrete") and not takes(action="multi") and not takes(actor_gradient="score")


# The gradient's way back.


@pytest.mark.parametrize("action", ACTIONS)
def test_three_actor_gradients_are_three_sets_of_edges(action: str) -> None:
    path, score, both = (
        gradients(agent(action=action, actor_gradient=kind)) for kind in ("pathwise", "score", "control_variate")
    )
    assert both == path | score and not path & score
    assert {flow for *_, flow in path} == {"pathwise"} and {flow for *_, flow in score} == {"score"}
    through = ("critic", "action", "pathwise")  # over discrete actions the gradient runs through their probabilities
    assert (through in path) == (action == "box")
    assert not any("critic" in edge or "value" in edge for edge in score)


def test_every_gradient_ends_at_the_actor_and_starts_at_a_cost() -> None:
    for made in (*(agent(name) for name in AGENTS), searching(), searching(critic=True)):
        graph = describe(made)
        back = flows(graph, "pathwise", "score", "search")
        assert "actor" in {target for _, target, _ in back} and not any("env" in edge for edge in back)
        for source, _, flow in back:
            starts = source not in {target for _, target, other in back if other == flow}
            assert not starts or node(graph, source).kind == "cost" or way_of(made) == "search", source


def test_on_policy_off_policy_and_gradient_free_differ() -> None:
    kinds = {name: {node.kind for node in describe(agent(name)).nodes} for name in AGENTS}
    for name in ON_POLICY:
        assert "rollout" in kinds[name] and "replay" not in kinds[name]
    for name in OFF_POLICY:
        assert "replay" in kinds[name] and "rollout" not in kinds[name]
    for name in SEARCH:
        made = describe(agent(name))
        assert not {"rollout", "replay"} & kinds[name] and made.subtitle.startswith("gradient-free")
        assert flows(made, "search") == {("estimate", "actor", "search")}
        assert ("critic" in {node.key for node in made.nodes}) == (name == "guidedes") == bool(flows(made, "pathwise"))
        assert "noise" not in {node.key for node in made.nodes}  # it is on the parameters, and none on the actions
    free = describe(searching())
    assert not {"rollout", "replay"} & {node.kind for node in free.nodes} and free.subtitle.startswith("gradient-free")
    assert {node.key for node in free.nodes} >= {"perturbation", "episodes", "estimate"}
    assert "critic" not in {node.key for node in free.nodes}
    assert ("critic", "estimate", "pathwise") in gradients(searching(critic=True))
    assert flows(free, "search") == {("estimate", "actor", "search")}


def test_a_search_says_what_it_estimates() -> None:
    said = {name: node(describe(agent(name)), "estimate").lines[0] for name in SEARCH}
    others = {"cmaes": "of mean and spread,", "randomsearch": "of the best so far,"}
    assert said == dict.fromkeys(SEARCH, "of the gradient,") | others


def test_targets_are_told_apart() -> None:
    keys = {name: {node.key for node in describe(agent(name)).nodes} for name in AGENTS}
    assert {name for name in AGENTS if "target_critic" in keys[name]} == {"sac", "td3"}
    assert "and target actor" in str(describe(agent("td3"))) and "target actor" not in str(describe(agent("sac")))
    assert "in one pass" in str(describe(agent("crossq"))) and "0.125 a step" in str(describe(agent("sac", tau=0.125)))


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(UserError, match="agent a2c cannot be drawn: it has no actor"):
        made = agent()
        made.actor = None
        describe(made)


# How it looks.


def boxes(graph: Graph) -> list[tuple[str, Any]]:
    figure = draw(graph)
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert texts
    for text in texts:
        box = text.get_window_extent(renderer)
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < figure.bbox.width and box.y1 < figure.bbox.height, text
    return [(text.get_text(), text.get_window_extent(renderer).padded(-1)) for text in texts]


def overlaps(graph: Graph) -> list[tuple[str, str]]:
    """Texts that lie on another one, or stick out of the shape that they stand in."""
    found, dots = boxes(graph), 110 * SCALE
    faults = [(a, b) for (a, one), (b, two) in combinations(found, 2) if one.overlaps(two)]
    for text, box in found:
        x, y = (box.x0 + box.x1) / 2 / dots, (box.y0 + box.y1) / 2 / dots
        for node in graph.nodes:
            place = PLACES[node.key]
            inside = abs(x - place.x) < place.width / 2 and abs(y - place.y) < place.height / 2
            if inside and max(place.x - box.x0 / dots, box.x1 / dots - place.x) > place.width / 2:
                faults.append((text, node.key))
    return faults


@pytest.mark.parametrize("name, obs, action", possible())
def test_any_agent_can_be_drawn_and_no_text_lies_on_another(name: str, obs: str, action: str) -> None:
    graph = describe(agent(name, obs, action), LONG)
    assert len({node.key for node in graph.nodes}) == len(graph.nodes)
    assert {key for edge in graph.edges for key in edge[:2]} <= {node.key for node in graph.nodes} <= PLACES.keys()
    assert overlaps(graph) == []


@pytest.mark.parametrize(
    "config",
    [
        *({"actor_gradient": kind, "n_critics": 3, "head": "hl_gauss"} for kind in ("pathwise", "score")),
        {"n_critics": 12, "head": "hl_gauss", "state_std": True},
        {"hidden": (2048, 8, 8, 8, 8, 2048), "dropout": 0.25},
        {"hidden": (1024, 8, 1024, 8), "normalize_obs": False},
    ],
)
def test_no_text_lies_on_another_whatever_the_settings(config: dict[str, Any]) -> None:
    for action in ACTIONS:
        assert overlaps(describe(agent(action=action, **config), LONG)) == []


def test_no_text_lies_on_another_without_gradient() -> None:
    for made in (searching(), searching(critic=True), searching(action="discrete", normalize_obs=False)):
        assert overlaps(describe(made, LONG)) == []


def test_overlaps_are_found() -> None:
    graph = describe(agent())
    wide = graph._replace(title=graph.title + "\n" * 4 + "x" * 300)
    with pytest.raises(AssertionError):
        overlaps(wide)
    for key, line in (("cost", "a line that hits its neighbour"), ("norm", "a line that leaves")):
        crowded = [n._replace(lines=(line,) * 5) if n.key == key else n for n in graph.nodes]
        assert overlaps(graph._replace(nodes=tuple(crowded))), key


def texts(svg: bytes) -> list[str]:
    root = ET.fromstring(svg)
    return ["".join(found.itertext()).strip() for found in root.iter("{http://www.w3.org/2000/svg}text")]


def test_svg_is_xml_with_its_text_as_text_and_the_same_each_time() -> None:
    graph = describe(agent("sac", hidden=(48, 96)), "Here-v1")
    svg, png = pictures(graph, "svg", "png")
    said = texts(svg)
    for text in ("SAC on Here-v1", "Here-v1", "actor", "C, 2 members", "48", "96", "target C", "replay", "E C", "loss"):
        assert text in said, text
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and pictures(graph, "svg", "png") == [svg, png]
    assert MARK.encode() in svg[:4096] and MARK.encode() in png[:4096]


# In a run.


def test_a_run_is_introduced_by_its_picture(tmp_path: Path) -> None:
    env, folder = Remade(num_envs=2), tmp_path / "run"
    made = A2C(env.single_observation_space, env.single_action_space, A2CConfig(hidden=(9,)))
    seen: list[list[str]] = []  # at each step

    def look(*_: Any) -> None:
        seen.append(texts((folder / "agent.svg").read_bytes()))

    train(made, env, 20, folder, progress=False, hooks=[look])
    env.close()
    assert "A2C on Countdown" in seen[0] and "9" in seen[0]
    (image,) = EventAccumulator(str(folder)).Reload().Images("agent")
    assert image.step == 0 and image.encoded_image_string[:8] == b"\x89PNG\r\n\x1a\n"
    assert image.width > image.height > 100


def test_an_agent_that_cannot_be_drawn_is_trained(tmp_path: Path, capsys: Any) -> None:
    env = Remade(num_envs=2)
    assert train(fake(env), env, 20, tmp_path / "run").step >= 20
    assert "no drawing: agent fake cannot be drawn: it has no actor" in capsys.readouterr().out
    assert not (tmp_path / "run" / "agent.svg").exists()
    env.close()
