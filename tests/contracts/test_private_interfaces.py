"""What other packages do not promise and the code calls all the same: each is there and does what is relied on.

A release of such a package may change it without a word. A test here then fails by its name, and a further one fails
where the code calls a private interface that is not in the list.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("rl", "agents", "envs", "scripts")
# Private names, and the files that use them: attributes, entries of dicts, and modules that are no documented part.
LISTED = {
    "torch._fused_adam_": {"rl/optim.py"},  # one kernel for Adam's step
    "torch._foreach_copy_": {"rl/optim.py"},  # one kernel for many copies
    "torch.ops.aten.threshold_backward": {"rl/gradients/by_hand.py"},  # backward of ReLU, in place
    "_modules": {"rl/networks/mlp.py"},  # torch.nn.Module: the lists of weights ...
    "_parameters": {"rl/networks/mlp.py"},  # ... and their entries, without ParameterList's slow iteration
    "_load_from_state_dict": {"rl/norm.py"},  # torch.nn.Module: buffers of another shape
    "_apply": {"rl/black_box/loss.py"},  # torch.nn.Module: what .to() calls
    "_extra_state": {"rl/black_box/loss.py"},  # torch.nn.Module: the key of get_extra_state
    "_state": {"envs/workers.py"},  # gymnasium's AsyncVectorEnv: whether an answer is due ...
    "_add_info": {"envs/workers.py"},  # ... the infos of all from those of each ...
    "_assert_is_running": {"envs/workers.py"},  # ... what every call begins with ...
    "_setattr": {"envs/workers.py"},  # ... what it is told to set an attribute ...
    "gymnasium.vector.async_vector_env": {"envs/workers.py"},  # ... and `_async_worker`, which a worker runs
    "_final_obs": {"envs/native/base.py", "envs/tasks/batched.py"},  # keys of gymnasium's info; in classic.py, too
    "_final_info": {"envs/native/base.py", "envs/native/classic.py"},
    "_sutton_barto_reward": {"envs/native/classic.py"},  # gymnasium's CartPoleEnv: its argument
    "_funhist_values": {"agents/cmaes.py"},  # cmaes: a history that is not read ...
    **{f"_{name}": {"agents/cmaes.py"} for name in ("mean", "sigma", "C", "B", "D", "p_sigma", "pc", "g")},  # ... state
    "tensorboard.compat.proto.event_pb2": {"rl/runs/events.py", "rl/runs/log.py"},
    "tensorboard.compat.proto.summary_pb2": {"rl/runs/log.py"},
    "tensorboard.summary.writer.record_writer": {"rl/runs/events.py"},
}
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit", "_current_frames"}  # of named tuples, os, sys
WORDS = {"_loss"}  # strings that are no name of anything


# How they are found


def nodes_of(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def own_names(nodes: list[ast.AST]) -> set[str]:
    """Every name that a file itself defines: functions, classes, arguments, variables, attributes of self."""
    names = set[str]()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _root(node) == "self":
            names.add(node.attr)
    return names


def _root(node: ast.AST) -> str:
    """The name that a chain of attributes begins with; "" of a call or an index."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_super(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def _private(name: str) -> bool:
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def private_uses(nodes: list[ast.AST], own: set[str], inherited: set[str]) -> Iterator[str]:
    """Private names of others in one file: attributes, keys and imports.

    Args:
        nodes: of the file.
        own: names that it defines.
        inherited: what its classes may have from classes in other files of ours.
    """
    pieces = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.Attribute) and _root(node) in ("torch", "gymnasium", "mujoco", "np", "tensorboard"):
            chain = ast.unparse(node)
            if chain.startswith("torch.ops."):
                yield from [chain] * (chain.count(".") == 3)
            elif _private(node.attr):
                yield chain
        elif isinstance(node, ast.Attribute) and _private(node.attr):
            ours = own | inherited if _root(node) in ("self", "cls") or _is_super(node.value) else own
            if node.attr not in ours | PUBLIC:
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces:
            if _private(node.value) and node.value not in own | PUBLIC | WORDS:
                yield node.value
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in modules:
                hidden = any(map(_private, (*module.split("."), *(alias.name for alias in node.names))))
                if module.split(".")[0] == "tensorboard" or (hidden and module.split(".")[0] not in ("costgrad", "")):
                    yield module


source_of = cache(inspect.getsource)  # it parses the whole file each time


def overridden(cls: type[Any]) -> Iterator[str]:
    """Private names of the classes of other packages that a class of ours inherits from, as far as it uses them."""
    others = [base for base in cls.__mro__ if base.__module__.split(".")[0] in ("torch", "gymnasium", "tensorboard")]
    if not others:
        return
    used = re.findall(r"(?:self|super\(\))\.(_[a-z]\w*)|def (_[a-z]\w*)", source_of(cls))
    theirs = "\n".join(map(source_of, others))
    for name in {a or b for a, b in used}:
        if re.search(rf"\bself\.{name}\b|def {name}\b", theirs):
            yield name


def found() -> dict[str, set[str]]:
    """Every private interface of another package, and the files that use it."""
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    files = {str(path.relative_to(ROOT)): nodes_of(path.read_text()) for path in paths}
    own, uses = {place: own_names(nodes) for place, nodes in files.items()}, dict[str, set[str]]()
    inherited = set[str]().union(*own.values())
    for place, nodes in files.items():
        for name in private_uses(nodes, own[place], inherited):
            uses.setdefault(name, set()).add(place)
        if place.startswith("scripts/") or place.endswith("__init__.py"):
            continue
        module = importlib.import_module("costgrad." + place.removesuffix(".py").replace("/", "."))
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ == module.__name__:
                for name in overridden(cls):
                    uses.setdefault(name, set()).add(place)
    return uses


def test_no_other_private_interface_is_used() -> None:
    assert found() == LISTED


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import torch\ntorch._foreach_add_(a, b)", "torch._foreach_add_"),
        ("x = torch.ops.aten.gelu_backward.grad_input(a, b)", "torch.ops.aten.gelu_backward"),
        ("env.unwrapped._elapsed_steps = 0", "_elapsed_steps"),
        ("getattr(env, '_elapsed_steps')", "_elapsed_steps"),
        ("from numpy._core import multiarray", "numpy._core"),
        ("from torch import _C", "torch"),
        ("from tensorboard.compat import tf", "tensorboard.compat"),
    ],
)
def test_another_one_would_be_found(code: str, name: str) -> None:
    assert list(private_uses(nodes_of(code), set(), set())) == [name]


def test_our_own_are_not_taken_for_theirs() -> None:
    code = "class A:\n    def _f(self):\n        self._x = 1\n        return other._x, other._f(), row._replace(a=1)"
    nodes = nodes_of(code)
    assert list(private_uses(nodes, own_names(nodes), set())) == []


def test_what_a_class_inherits_is_found() -> None:
    from costgrad.rl.norm import CostUnit

    assert list(overridden(CostUnit)) == ["_load_from_state_dict"]


# torch


@pytest.mark.parametrize("eps", [1e-8, 1e-2])  # the second shows where eps is added
def test_fused_adam_is_the_step_of_torchs_adam(eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(37, generator=generator)
    theirs = nn.Parameter(ours.clone())
    mean, square, step = torch.zeros_like(ours), torch.zeros_like(ours), torch.zeros(())
    adam = torch.optim.Adam([theirs], lr=0.03, betas=(0.7, 0.999), eps=eps)
    for _ in range(5):
        gradient = 0.1 * torch.randn(37, generator=generator)
        theirs.grad = gradient.clone()
        adam.step()
        step.add_(1)
        before = gradient.clone()
        torch._fused_adam_(
            *([ours], [gradient], [mean], [square], [], [step]),
            amsgrad=False,
            maximize=False,
            weight_decay=0.0,
            lr=0.03,
            beta1=0.7,
            beta2=0.999,
            eps=eps,
        )
        assert torch.equal(gradient, before)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)
    state = adam.state[theirs]
    torch.testing.assert_close((mean, square), (state["exp_avg"], state["exp_avg_sq"]), rtol=1e-5, atol=1e-9)


def test_foreach_copy_copies_into_views() -> None:
    flat = torch.zeros(10)
    slots, sources = [flat[:6].view(2, 3), flat[6:].view(4)], [torch.randn(3, 2).T, torch.randn(4)]
    torch._foreach_copy_(slots, sources)
    assert torch.equal(flat, torch.cat([source.reshape(-1) for source in sources]))


def test_threshold_backward_is_the_backward_of_relu() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 3.0, float("inf")], requires_grad=True)
    y = torch.relu(x)
    grad_output = torch.tensor([1.0, 2.0, 3.0, 4.0, -5.0, 6.0])
    (wanted,) = torch.autograd.grad(y, x, grad_output)
    given = grad_output.clone()
    result = torch.ops.aten.threshold_backward.grad_input(given, y.detach(), 0.0, grad_input=given)
    assert torch.equal(given, wanted) and result.data_ptr() == given.data_ptr()


def test_modules_and_parameters_are_those_that_functional_call_swaps() -> None:
    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.ones(1), torch.full((2,), 2.0)])

        def forward(self) -> list[torch.Tensor]:
            return list(self._modules["weights"]._parameters.values())  # type: ignore[union-attr, arg-type]

    lists = Lists()
    assert all(a is b for a, b in zip(lists(), lists.weights, strict=True))
    swapped = {name: 3 * value.detach() for name, value in lists.named_parameters()}
    assert [value.tolist() for value in torch.func.functional_call(lists, swapped, ())] == [[3.0], [6.0, 6.0]]


class Told(nn.Module):
    """Notes what torch calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("row", torch.zeros(2))
        self.calls: list[Any] = []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.calls.append(prefix)
        self.row = torch.zeros_like(state_dict[f"{prefix}row"])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Any, recurse: bool = True) -> Told:
        self.calls.append(fn(torch.zeros(0)).dtype)
        super()._apply(lambda tensor: tensor.to(fn(tensor.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def get_extra_state(self) -> dict[str, Any]:
        return {"kept": 5}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls.append(state["kept"])


def test_load_from_state_dict_is_called_for_each_part_before_shapes_are_compared() -> None:
    outer = nn.Sequential(Told())
    outer.load_state_dict({"0.row": torch.ones(5), "0._extra_state": {"kept": 6}})
    assert outer[0].calls == ["0.", 6] and torch.equal(outer[0].row, torch.ones(5))


def test_apply_is_what_a_model_calls_for_its_parts_when_it_moves() -> None:
    outer = nn.Sequential(nn.Linear(1, 1), Told())
    outer.double()
    assert outer[1].calls == [torch.float64] and outer[1].row.dtype == torch.float32
    assert outer[0].weight.dtype == torch.float64


def test_extra_state_has_its_key() -> None:
    state = Told().state_dict()
    assert state.pop("_extra_state") == {"kept": 5} and list(state) == ["row"]
    Told().load_state_dict({**state, "_extra_state": {"kept": 7}})


# gymnasium


class Fragile(gymnasium.Env[Any, Any]):
    """Fails in its second step."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 2:
            raise ZeroDivisionError("the second step")
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_async_state_says_whether_an_answer_is_due_and_every_call_asks_first() -> None:
    from gymnasium.vector.async_vector_env import AsyncState

    asked: list[bool] = []

    class Watched(AsyncVectorEnv):
        def _assert_is_running(self) -> None:
            asked.append(True)
            super()._assert_is_running()

    env = Watched([Fragile])
    try:
        assert env._state is AsyncState.DEFAULT
        env.reset(seed=0)
        asked.clear()
        env.step_async(np.zeros(1, np.int64))
        assert env._state is AsyncState.WAITING_STEP and asked
        env.step_wait()
        assert env._state is AsyncState.DEFAULT
        asked.clear()
        assert env.call("steps") == (1,) and asked
        assert env._add_info(env._add_info({}, {"a": True}, 0), {"b": 2}, 0)["a"].tolist() == [True]
    finally:
        env.close()


@pytest.mark.filterwarnings("ignore")  # gymnasium's own, of a worker that fails
def test_an_async_worker_without_shared_memory_sends_what_it_observes_and_queues_what_is_raised() -> None:
    import multiprocessing
    from inspect import signature

    from gymnasium.vector.async_vector_env import _async_worker
    from gymnasium.vector.utils import CloudpickleWrapper

    context = multiprocessing.get_context()
    ours, theirs = context.Pipe()
    errors = context.Queue()
    given = (4, CloudpickleWrapper(Fragile), theirs, ours, None, errors, AutoresetMode.SAME_STEP, None)
    process = context.Process(target=_async_worker, args=given[: len(signature(_async_worker).parameters)], daemon=True)
    process.start()
    theirs.close()
    ours.send(("reset", {"seed": 0, "options": None}))
    (obs, info), fine = ours.recv()
    assert obs.shape == (1,) and info == {} and fine
    ours.send(("_setattr", ("steps", 0)))
    assert ours.recv() == (None, True)
    ours.send(("step", 0))
    (obs, *rest), fine = ours.recv()
    assert obs.shape == (1,) and rest == [0.0, False, False, {}] and fine
    ours.send(("step", 0))
    assert ours.recv() == (None, False)
    index, kind, value, trace = errors.get(timeout=5)
    assert (index, kind, str(value)) == (4, ZeroDivisionError, "the second step") and "Traceback" in trace
    process.join(5)
    assert process.exitcode == 0


def test_info_has_the_keys_of_an_episodes_end() -> None:
    env = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    for _ in range(200):
        _, _, terminated, truncated, info = env.step(np.array([1, 0]))
        if (done := terminated | truncated).any():
            break
    assert {"final_obs", "_final_obs", "final_info", "_final_info"} <= info.keys()
    np.testing.assert_array_equal(info["_final_obs"], done)
    np.testing.assert_array_equal(info["_final_info"], done)
    env.close()


def test_cartpole_keeps_its_argument_under_this_name() -> None:
    for value in (False, True):
        env = gymnasium.make("CartPole-v1", sutton_barto_reward=value).unwrapped
        assert env._sutton_barto_reward is value  # type: ignore[attr-defined]


def test_modules_of_gymnasium_that_are_no_documented_part_are_there() -> None:
    """`utils` and `DEFAULT_X` in envs/native/classic.py, `load_env_creator` in envs/forms.py and others."""
    from gymnasium.envs.classic_control import utils
    from gymnasium.envs.classic_control.pendulum import DEFAULT_X, DEFAULT_Y, PendulumEnv
    from gymnasium.envs.registration import load_env_creator

    assert utils.maybe_parse_reset_bounds(None, -0.05, 0.05) == (-0.05, 0.05)
    assert utils.maybe_parse_reset_bounds({"low": -1, "high": 2}, -0.05, 0.05) == (-1, 2)
    with pytest.raises(ValueError):
        utils.maybe_parse_reset_bounds({"low": 2, "high": 1}, -0.05, 0.05)
    assert np.isclose([DEFAULT_X, DEFAULT_Y], [np.pi, 1.0]).all()
    assert load_env_creator("gymnasium.envs.classic_control.pendulum:PendulumEnv") is PendulumEnv


def test_expand_model_path_gives_the_file_of_a_model() -> None:
    """Of envs/native/mujoco_batch.py, where the user gives `xml_file`."""
    pytest.importorskip("mujoco")
    from gymnasium.envs.mujoco.mujoco_env import expand_model_path

    assert Path(expand_model_path("half_cheetah.xml")).is_file()


# tensorboard and cmaes


def test_tensorboards_records_are_written_and_read(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    image = Summary.Image(width=2, height=1, colorspace=4, encoded_image_string=b"png")
    values = [Summary.Value(tag="a", simple_value=1.5), Summary.Value(tag="b", image=image)]
    writer = EventFileWriter(str(tmp_path))
    writer.add_event(Event(wall_time=1.0, step=3, session_log=SessionLog(status=SessionLog.START)))
    writer.add_event(Event(wall_time=2.0, step=4, summary=Summary(value=values)))
    writer.close()
    (file,) = tmp_path.iterdir()
    events = [event for event in EventFileLoader(str(file)).Load() if event.step]
    assert [event.step for event in events] == [3, 4] and events[0].session_log.status == SessionLog.START
    assert [value.tag for value in events[1].summary.value] == ["a", "b"]


@pytest.mark.parametrize("kind", ["CMA", "SepCMA"])
def test_the_numbers_of_cmaes_decide_its_future(kind: str) -> None:
    """Attributes that are numbers or arrays, but for its noise and `_funhist_values`: agents/cmaes.py saves them."""
    search_class = getattr(pytest.importorskip("cmaes"), kind)

    def tell(search: Any, generation: int) -> None:
        points = np.random.default_rng(generation).standard_normal((search.population_size, 3))
        search.tell([(point, float((point**2).sum())) for point in search.mean + 0.1 * points])

    first, again = (search_class(np.ones(3), 0.5, seed=0) for _ in range(2))
    assert "_funhist_values" in vars(first)
    for generation in range(3):
        tell(first, generation)
    for name, value in vars(first).items():
        if isinstance(value, np.ndarray | float | int) and name != "_funhist_values":
            setattr(again, name, copy.copy(value))
    for generation in range(3, 6):
        tell(first, generation)
        tell(again, generation)
        np.testing.assert_array_equal(again.mean, first.mean)


def test_the_versions_that_were_tested_are_known() -> None:
    """What failed here failed with these."""
    packages = [sys.modules[name] for name in ("torch", "gymnasium", "numpy")]
    assert all(package.__version__ for package in packages)
