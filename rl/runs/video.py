"""A film of the policy, without a display."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error as gym_error
from gymnasium.vector import AutoresetMode, VectorEnv

from costgrad.rl.errors import UserError
from costgrad.rl.evaluate import SEED_OFFSET
from costgrad.rl.factories import Factory, check_single_spaces, factory_of, vector_of
from costgrad.rl.files import writing
from costgrad.rl.ledger import StepLedger


def record_video(
    agent: Any,
    env: VectorEnv | gymnasium.Env | Factory | str,
    path: str | Path,
    episodes: int = 1,
    deterministic: bool = True,
    seed: int | None = None,
    max_steps: int = 3000,
    ledger: StepLedger | None = None,
) -> Path:
    """Films whole episodes of one environment; the frame rate is the environment's own.

    Args:
        agent: has `predict`.
        env: a VectorEnv with `.factory`, a factory `make(num_envs, seed, render_mode)`, a class or function that makes
            one environment, or an id of gymnasium's; or a VectorEnv (its first environment is filmed) or a single
            environment that was made with render_mode="rgb_array".
        path: ends in .mp4 or .gif; without ffmpeg (imageio-ffmpeg) an .mp4 becomes a .gif.
        episodes: how many, one after the other.
        deterministic: the policy's mode instead of a sample.
        seed: of the training run; the film starts from seed + 1,000,000 as `evaluate` does.
        max_steps: where the film ends at the latest.
        ledger: counts its steps.
    Returns:
        the file that was written.
    Raises:
        UserError: the environment cannot render, a package is missing, the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise UserError(f"video {path} must end in .mp4 or .gif")
    if seed is None:
        seed = getattr(env, "initial_seed", None) or 0
    seed += SEED_OFFSET
    make = factory_of(env)
    if make is None:
        assert isinstance(env, VectorEnv | gymnasium.Env)
        return _film(agent, vector_of(env), path, episodes, deterministic, seed, max_steps, ledger)
    if "rgb_array" not in (getattr(env, "metadata", {}).get("render_modes", ["rgb_array"]) or ()):
        raise UserError(f"the environment cannot be filmed: {_modes(env)}")
    try:
        fresh = make(num_envs=1, seed=seed, render_mode="rgb_array")
    except gym_error.Error as error:
        raise UserError(f"the environment cannot be filmed: {error}") from error
    try:
        return _film(agent, fresh, path, episodes, deterministic, seed, max_steps, ledger)
    finally:
        fresh.close()


def _film(
    agent: Any,
    env: VectorEnv,
    path: Path,
    episodes: int,
    deterministic: bool,
    seed: int,
    max_steps: int,
    ledger: StepLedger | None,
) -> Path:
    check_single_spaces(agent, env)
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    obs, _ = env.reset(seed=seed)
    first = _frame(env)
    if path.suffix == ".mp4" and not _has_ffmpeg():
        path = path.with_suffix(".gif")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = _writer(temporary, env.metadata.get("render_fps") or 30)
        try:
            with writing(path):
                writer.append_data(first)
            state, start, left = None, np.ones(env.num_envs, dtype=bool), episodes
            reset_row = np.zeros(env.num_envs, dtype=bool)
            for _ in range(max_steps):
                action, state = agent.predict(obs, state, start, deterministic)
                obs, _, terminated, truncated, _ = env.step(action)
                start = terminated | truncated
                if ledger is not None:
                    ledger.evaluation += int((~reset_row).sum())
                reset_row = start if mode == AutoresetMode.NEXT_STEP else np.zeros_like(start)
                frame = _frame(env)
                if frame.shape != first.shape:
                    shapes = f"a picture has shape {frame.shape}, the first had {first.shape}"
                    raise UserError(f"the environment cannot be filmed: {shapes}")
                with writing(path):
                    writer.append_data(frame)
                left -= int(start[0])
                if left == 0:
                    break
                if start.any() and mode == AutoresetMode.DISABLED:
                    obs, _ = env.reset(options={"reset_mask": start})
        finally:
            writer.close()
        with writing(path):
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def _frame(env: VectorEnv) -> np.ndarray:
    """[H, W, 3] uint8 of the first environment. Raises UserError where it shows none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what gymnasium warns of is said below, once
            frames = env.render()
    except (gym_error.Error, ImportError) as error:
        raise UserError(f"the environment cannot be filmed: {error}") from error
    frame = frames[0] if frames is not None and len(frames) else None
    if isinstance(frame, list) and frame:  # of an environment that collects them
        frame = frame[-1]
    if not isinstance(frame, np.ndarray) or frame.ndim not in (2, 3):
        raise UserError(f"the environment cannot be filmed: it gave no picture; {_modes(env)}")
    if not np.issubdtype(frame.dtype, np.integer):
        raise UserError(f"the environment cannot be filmed: its picture has dtype {frame.dtype}, it must be uint8")
    frame = frame[..., None] if frame.ndim == 2 else frame
    frame = np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame[..., :3]  # grey; or with transparency
    return frame.astype(np.uint8, copy=False)


def _modes(env: Any) -> str:
    modes = list(env.metadata.get("render_modes") or [])
    return f"make it with render_mode='rgb_array' (its metadata['render_modes'] is {modes})"


def _has_ffmpeg() -> bool:
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True


def _writer(path: Path, fps: float) -> Any:
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise UserError("a video needs imageio: pip install 'costgrad[video]'") from error
    if path.suffix == ".gif":  # browsers slow down frames of less than 20 ms
        return imageio.get_writer(path, mode="I", duration=max(20, round(1000 / fps)), loop=0)
    return imageio.get_writer(path, fps=fps, macro_block_size=2)
