"""Flags in the forms people write them in, and what is said to those that are not there; each remedy is carried out."""

from __future__ import annotations

import json
import re
import shlex
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from costgrad.agents import AGENTS
from costgrad.rl.checkpoint import read, write
from costgrad.rl.runs.folder import read_config
from costgrad.rl.settings import RENAMED
from costgrad.scripts import check_env, cli, draw, evaluate, experiment, flags, pick, probe, train
from costgrad.scripts.examples import digits

QUICK = ("--no-capture-video", "--no-progress", "--eval-episodes", "1", "--num-envs", "2")


def refused(capsys: Any, main: Any, *words: str) -> str:
    """The one line that comes of wrong input."""
    capsys.readouterr()
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1, error
    return str(error).removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--algo ppo", "unknown flag --algo (did you mean --agent?)"),
        ("--learning-rate 3e-4", "unknown flag --learning-rate (did you mean --actor-lr or --critic-lr?)"),
        ("--lr 3e-4", "unknown flag --lr (did you mean --actor-lr or --critic-lr?)"),
        ("--n-steps 5", "unknown flag --n-steps (did you mean --num-steps?)"),
        ("--agent sac --n_steps 5", "unknown flag --n_steps (did you mean --n-step?)"),
        ("--agent ppo --n-epochs 5", "unknown flag --n-epochs (did you mean --epochs?)"),
        ("--timesteps 100", "unknown flag --timesteps (did you mean --total-timesteps?)"),
        ("--n-envs=4", "unknown flag --n-envs (did you mean --num-envs?)"),
        ("--logdir x", "unknown flag --logdir (did you mean --run-dir?)"),
        ("--n-eval-episodes 5", "unknown flag --n-eval-episodes (did you mean --eval-episodes?)"),
        ("--num-env 3", "unknown flag --num-env (did you mean --num-envs?)"),
        ("--zzzzz 3", "unknown flag --zzzzz"),
        ("--num-envs 2.5", "--num-envs must be a whole number, such as 100000 or 1e5, got '2.5'"),
        ("-n many", "--total-timesteps must be a whole number, such as 100000 or 1e5, got 'many'"),
        ("--actor-lr high", "--actor-lr must be a number, such as 0.001 or 1e-3, got 'high'"),
        ("--hidden 64x64", "--hidden must be whole numbers, such as 64 64 or 64,64, got '64x64'"),
        ("--env-kwargs days:1", "write --env-kwargs gravity=9.8 days=3, or --env-kwargs '{\"gravity\": 9.8}'"),
    ],
)
def test_what_is_wrong_is_one_line_with_what_is_right(words: str, said: str, capsys: Any) -> None:
    assert said in refused(capsys, train.main, *words.split())


def test_the_flags_that_are_named_are_there() -> None:
    """Whatever a hint may name is a flag of some command."""
    known: set[str] = set()
    for module in (train, evaluate, probe, draw, check_env, experiment):
        known |= flags.flags_of(module.Args, SimpleNamespace(config=AGENTS["a2c"][1]())).keys()
    assert set(flags.ELSEWHERE.values()) <= known


def settings(*words: str) -> Any:
    return train.read_args(["--no-progress", *words])[0]


def test_numbers_as_people_write_them() -> None:
    for text in ("1e6", "1_000_000", "1000000", "1.0e6", "+1e6", "1E6"):
        assert settings("-n", text).total_timesteps == settings(f"--total-timesteps={text}").total_timesteps == 10**6
    args = settings("--agent", "sac", "--buffer-size", "1e5", "--eval-freq", "2e3", "--num-envs", "1_6")
    assert (args.config.buffer_size, args.eval_freq, args.num_envs) == (100_000, 2000, 16)
    assert settings("--eval-freq", "None").eval_freq is None
    for words in (["64,32"], ["64", "32"], ["[64,", "32]"], ["(64,32)"]):
        assert settings("--hidden", *words).config.hidden == (64, 32)
    assert settings("--hidden=64,32").config.hidden == (64, 32)
    assert settings("--agent", "ars", "--hidden").config.hidden == ()
    assert flags.whole("1e-3") is flags.whole("1.5") is flags.whole("1e400") is flags.whole("") is None


def test_seeds_as_people_write_them(capsys: Any) -> None:
    known = flags.flags_of(experiment.Args)
    for text, seeds in (("0-9", range(10)), ("0-4,7", [0, 1, 2, 3, 4, 7]), ("3..5", [3, 4, 5]), ("1,2", [1, 2])):
        assert flags.tidied(["--seeds", *text.split()], known)[0] == ["--seeds", *map(str, seeds)]
    assert flags.tidied(["--seeds", "0-1", "5", "--jobs", "1e0"], known)[0] == ["--seeds", "0", "1", "5", "--jobs", "1"]
    named = ("--name", "n", "--envs", "CartPole-v1:1e3")
    assert "--seeds 5-2 must go up, as 0-9 does" in refused(capsys, experiment.main, *named, "--seeds", "5-2")
    assert "seeds must be at least 0, got -1" in refused(capsys, experiment.main, *named, "--seeds", "-1")
    assert "such as 0 1 2, 0-9 or 0-4,7, got 'a'" in refused(capsys, experiment.main, *named, "--seeds", "a")
    assert flags.tidied(["--seeds", "0-2"], flags.flags_of(digits.Args))[0] == ["--seeds", "0", "1", "2"]


def test_an_experiment_takes_them(tmp_path: Path, monkeypatch: Any) -> None:
    todo: list[Any] = []
    monkeypatch.setattr(experiment, "run_all", lambda runs, *_: todo.extend(runs) or 0)
    words = ["--name", "n", "--results", str(tmp_path), "--envs", "CartPole-v1:1e3", "--agent", "PPO", "--seeds", "3-5"]
    assert experiment.main([*words, "--variant", 'v={"minibatch": 64, "n_step": 1}'][:-2]) == 0
    assert [(run.agent, run.seed, run.total) for run in todo] == [("ppo", seed, 1000) for seed in (3, 4, 5)]


def test_a_variant_of_an_unknown_setting_names_the_nearest(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    words = ("--name", "n", "--results", str(tmp_path), "--envs", "CartPole-v1:100", "--no-presets", "--seeds", "0")
    error = refused(capsys, experiment.main, *words, "--variant", 'v={"gama": 1}')
    assert "a2c has no setting 'gama' (did you mean gamma?): it has gamma, " in error
    error = refused(capsys, experiment.main, *words, "--variant", 'v={"learning_rate": 1}')
    assert "(did you mean actor_lr or critic_lr?)" in error
    todo: list[Any] = []
    monkeypatch.setattr(experiment, "run_all", lambda runs, *_: todo.extend(runs) or 0)
    assert experiment.main([*words, "--variant", 'v={"minibatch": 64}', "--no-shipped"]) == 0
    assert [run.config for run in todo] == [{"batch_size": 64}]
    assert capsys.readouterr().err == "note: a2c: minibatch is called batch_size now\n"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["days=1"], {"days": 1}),
        (["days=1", "start=2.5", "name=abc"], {"days": 1, "start": 2.5, "name": "abc"}),
        (["on=True", "off=false", "none=None"], {"on": True, "off": False, "none": None}),
        (
            ["shape=[1, 2]", "pair=(3, 4)", "text=a=b", "empty="],
            {"shape": [1, 2], "pair": [3, 4], "text": "a=b", "empty": ""},
        ),
        (['{"days": 1, "name": "x"}'], {"days": 1, "name": "x"}),
        (["days=1", "--env-kwargs", "start=2"], {"days": 1, "start": 2}),
        (["days=1", "--seed", "3"], {"days": 1}),
    ],
)
def test_arguments_of_an_environment_are_key_value_or_json(words: list[str], given: dict[str, Any]) -> None:
    assert json.loads(settings("--env-kwargs", *words).env_kwargs) == given
    assert flags.json_object("--env-kwargs", settings("--env-kwargs", *words).env_kwargs) == given


def test_key_value_in_every_command_that_takes_it(tmp_path: Path, capsys: Any) -> None:
    run = str(tmp_path / "run")
    assert train.main(["-n", "50", *QUICK, "--run-dir", run, "--env-kwargs", "max_episode_steps=7"]) == 0
    assert read_config(run)["env_kwargs"] == {"max_episode_steps": 7}
    assert evaluate.main(["--env-kwargs", "max_episode_steps=3", run, "--episodes", "2"]) == 0
    assert "return 3 +- 0" in capsys.readouterr().out
    assert check_env.main(["CartPole-v1", "--steps", "20", "--env-kwargs", "max_episode_steps=5"]) == 0
    assert "max_episode_steps" in capsys.readouterr().out.splitlines()[-1]
    out = str(tmp_path / "a.svg")
    words = ["--agent", "A2C", "--env", "CartPole-v1", "--settings", "hidden=[24,24]", "clip_norm=1", "-o", out]
    assert draw.main(words) == 0
    assert ">24<" in Path(out).read_text()
    assert "a2c: clip_norm is called max_grad_norm now" in capsys.readouterr().err


# Each example that a message gives is taken.


def test_the_examples_in_messages_are_taken(capsys: Any) -> None:
    said = refused(capsys, train.main, "--env-kwargs", "days:1").partition("write ")[2]
    for example in said.split(", or "):
        assert json.loads(settings(*shlex.split(example)).env_kwargs)["gravity"] == 9.8
    said = refused(capsys, train.main, "-n", "many")
    for example in re.findall(r"such as (\S+) or (\S+),", said)[0]:
        assert settings("-n", example).total_timesteps == 100_000
    said = refused(capsys, train.main, "--hidden", "x")
    for example in re.findall(r"such as ([\d ]+) or (\S+), got", said)[0]:
        assert settings("--hidden", *example.split()).config.hidden == (64, 64)
    said = refused(capsys, train.main, "--actor-lr", "x")
    for example in re.findall(r"such as (\S+) or (\S+),", said)[0]:
        assert settings("--actor-lr", example).config.actor_lr == 1e-3


# What was called otherwise.

OLD = [
    (agent, old, new)
    for agent, (_, config) in AGENTS.items()
    for old, new in RENAMED.items()
    if new in config.__dataclass_fields__ and old not in config.__dataclass_fields__
]


@pytest.mark.parametrize(("agent", "old", "new"), OLD)
def test_an_old_flag_works_and_says_what_it_is_called(agent: str, old: str, new: str, capsys: Any) -> None:
    usual = getattr(AGENTS[agent][1](), new)
    value = usual / 2 if isinstance(usual, float) else 3
    for words in ([f"--{old.replace('_', '-')}", str(value)], [f"--{old}={value}"]):
        capsys.readouterr()
        assert getattr(settings("--agent", agent, *words).config, new) == value
        typed = words[0].partition("=")[0]
        assert capsys.readouterr().err == f"note: {typed} is called --{new.replace('_', '-')} now\n"


def test_notes_are_lines_and_other_warnings_stay(capsys: Any) -> None:
    def command(argv: Any) -> int:
        warnings.warn("a is called\nb now", FutureWarning, stacklevel=1)
        return 0

    assert cli.guarded(command, []) == 0
    assert capsys.readouterr().err == "note: a is called b now\n"

    def other(argv: Any) -> int:
        warnings.warn("something", RuntimeWarning, stacklevel=1)
        return 0

    with pytest.warns(RuntimeWarning, match="something"):
        cli.guarded(other, [])


def test_a_run_of_an_older_version_goes_on_with_notes(tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    assert train.main(["-n", "50", *QUICK, "--run-dir", str(run), "--batch-size", "32"]) == 0
    config = run / "config.json"
    config.write_text(config.read_text().replace('"batch_size"', '"minibatch"'))
    for meta in run.glob("checkpoints/*/meta.json"):
        tensors, held = read(meta.parent)
        write(meta.parent, tensors, json.loads(json.dumps(held).replace('"batch_size"', '"minibatch"')))
    capsys.readouterr()
    assert evaluate.main([str(run), "--episodes", "1"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("note: checkpoint ") and error.endswith("minibatch is called batch_size now\n")
    with pytest.warns(FutureWarning, match="minibatch is called batch_size now"):
        assert train.read_args(["--resume", str(run), "-n", "90"])[0].config.batch_size == 32
    assert train.main(["--resume", str(run), "-n", "90", "--no-progress"]) == 0
    assert "note: minibatch is called batch_size now\n" in capsys.readouterr().err


def test_a_longer_run_says_that_its_decay_was_stretched(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert train.main(["-n", "50", *QUICK, "--run-dir", run, "--decay-steps", "50"]) == 0
    args, said = train.read_args(["--resume", run, "-n", "80"])
    assert args.config.decay_steps == 80
    assert f"decay_steps 80 (run {run} had 50, stretched to the new total)" in said
    said = train.read_args(["--resume", run, "-n", "80", "--eval-freq", "7"])[1]
    assert "stretched" in said
    own = train.read_args(["--resume", run])[1]
    assert f"decay_steps 50 (run {run})" in own


# Agents by name.


@pytest.mark.parametrize("name", ["PPO", "Ppo", "Guided-ES", "guided_es", "CMA-ES", "RandomSearch", "random_search"])
def test_case_and_dashes_of_an_agent_do_not_matter(name: str) -> None:
    plain = name.lower().replace("-", "").replace("_", "")
    assert settings("--agent", name).agent == settings(f"--agent={name}").agent == plain
    assert isinstance(settings("--agent", name).config, AGENTS[plain][1])


def test_the_help_names_every_agent(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"Algorithm: {', '.join(sorted(AGENTS))}".replace(", td3", " or td3") in said


def test_agents_that_are_not_here_and_what_does_what_they_do(capsys: Any, tmp_path: Path) -> None:
    """The flags that the advice names make an agent that trains."""
    for name, env in (
        ("ddpg", "Pendulum-v1"),
        ("dqn", "CartPole-v1"),
        ("a3c", "CartPole-v1"),
        ("trpo", "CartPole-v1"),
        ("reinforce", "CartPole-v1"),
        ("openai-es", "CartPole-v1"),
        ("tqc", "Pendulum-v1"),
    ):
        said = refused(capsys, train.main, "--agent", name.upper())
        assert said.startswith(f"unknown agent '{name.upper()}': it must be one of a2c, ars, ")
        advised = re.findall(r"--agent [a-z]\w+(?: --[a-z-]+ [a-z0-9]+)*", said)
        assert advised
        for i, words in enumerate(advised):
            folder = str(tmp_path / f"{name}{i}")
            assert train.main(["--env", env, "-n", "4", *QUICK, "--run-dir", folder, *words.split()]) == 0
        capsys.readouterr()
    config = settings("--agent", "td3", "--n-critics", "1", "--target-policy-noise", "0", "--policy-delay", "1").config
    assert (config.n_critics, config.target_policy_noise, config.policy_delay) == (1, 0, 1)
    assert "did you mean crossq?" in refused(capsys, train.main, "--agent", "cros")
    assert "(" not in refused(capsys, train.main, "--agent", "zzzz")
    assert all(set(re.findall(r"--agent (\w+)", text)) <= set(AGENTS) for text in pick.ADVICE.values())


def test_a_device_that_is_not_there(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = refused(capsys, train.main, "--device", "cuda")
    assert said == "device cuda is not there: torch finds no GPU (device cpu works everywhere)"
    assert cli.choose_device("cpu", None)[0] == "cpu"  # the remedy


def test_a_file_beside_the_scripts_is_not_taken_for_a_users(monkeypatch: Any, tmp_path: Path) -> None:
    folder = str(Path(cli.__file__).parent)
    monkeypatch.setattr(sys, "path", [folder, str(tmp_path)])
    assert cli.guarded(lambda argv: 0, []) == 0
    assert sys.path == [str(tmp_path)]
    monkeypatch.setattr(sys, "path", [f"{folder}/examples", str(tmp_path)])
    assert cli.guarded(lambda argv: 0, []) == 0 and sys.path == [str(tmp_path)]
