"""The dynamics of gymnasium's classic control, each written once, for a batch in NumPy and for one row in numba.

A row function steps the state that it is given:

    s       [S, N] or [S] float64, the state; overwritten
    a       [N] or a number, the action: int64, or float64 with one component
    o       [O, N] or [O] float32, the output for obs
    first   [N] or a bool: whether this is the first step after a reset
    single  bool: whether a was float32; gymnasium then computes some terms in float32
    p       [2] float64: the exponent 2, and the argument of gymnasium's constructor
    returns reward and terminated, [N] or a number each

Every line has gymnasium's operations in the same order and precision, so that results are bit-equal.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Num = Any  # an array of N, or one number
Row = Callable[[Any, Num, Any, Num, bool, Any], tuple[Num, Num]]
BAD_ACTION, EXHAUSTED = -1, -2  # returned by a compiled step without stepping; EXHAUSTED: no drawn state is left


def cartpole(s: Any, a: Num, o: Any, first: Num, single: bool, p: Any) -> tuple[Num, Num]:
    """State and obs: cart position and velocity, pole angle and velocity. p[1]: 1 for `sutton_barto_reward`, else 0."""
    x, x_dot, theta, theta_dot = s[0], s[1], s[2], s[3]
    cos, sin = np.cos(theta), np.sin(theta)
    temp = (_pick(a == 1, 10.0, -10.0) + 0.05 * np.square(theta_dot) * sin) / 1.1
    theta_acc = (9.8 * sin - cos * temp) / (0.5 * (4.0 / 3.0 - 0.1 * np.square(cos) / 1.1))
    x_acc = temp - 0.05 * theta_acc * cos / 1.1
    x, x_dot = x + 0.02 * x_dot, x_dot + 0.02 * x_acc
    theta, theta_dot = theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc
    s[0], s[1], s[2], s[3] = x, x_dot, theta, theta_dot
    o[0], o[1], o[2], o[3] = x, x_dot, theta, theta_dot
    terminated = (np.abs(x) > 2.4) | (np.abs(theta) > _CARTPOLE_ANGLE)
    return (1.0 - p[1]) - p[1] * terminated, terminated


def acrobot(s: Any, a: Num, o: Any, first: Num, single: bool, p: Any) -> tuple[Num, Num]:
    """State: two angles, two velocities; obs: their cosines and sines, the velocities. Runge-Kutta over 0.2 s."""
    t1, t2, v1, v2, torque = s[0], s[1], s[2], s[3], a - 1.0
    # The derivatives of the angles are the velocities v, u, w, x of the four stages.
    a1, b1 = _acrobot_acceleration(t1, t2, v1, v2, torque, p[0])
    u1, u2 = v1 + 0.1 * a1, v2 + 0.1 * b1
    a2, b2 = _acrobot_acceleration(t1 + 0.1 * v1, t2 + 0.1 * v2, u1, u2, torque, p[0])
    w1, w2 = v1 + 0.1 * a2, v2 + 0.1 * b2
    a3, b3 = _acrobot_acceleration(t1 + 0.1 * u1, t2 + 0.1 * u2, w1, w2, torque, p[0])
    x1, x2 = v1 + 0.2 * a3, v2 + 0.2 * b3
    a4, b4 = _acrobot_acceleration(t1 + 0.2 * w1, t2 + 0.2 * w2, x1, x2, torque, p[0])
    t1 = _wrap(t1 + 0.2 / 6.0 * (v1 + 2 * u1 + 2 * w1 + x1))
    t2 = _wrap(t2 + 0.2 / 6.0 * (v2 + 2 * u2 + 2 * w2 + x2))
    v1 = np.minimum(np.maximum(v1 + 0.2 / 6.0 * (a1 + 2 * a2 + 2 * a3 + a4), -4 * math.pi), 4 * math.pi)
    v2 = np.minimum(np.maximum(v2 + 0.2 / 6.0 * (b1 + 2 * b2 + 2 * b3 + b4), -9 * math.pi), 9 * math.pi)
    s[0], s[1], s[2], s[3] = t1, t2, v1, v2
    o[0], o[1], o[2], o[3], o[4], o[5] = np.cos(t1), np.sin(t1), np.cos(t2), np.sin(t2), v1, v2
    terminated = -np.cos(t1) - np.cos(t2 + t1) > 1.0
    return _pick(terminated, 0.0, -1.0), terminated


def _acrobot_acceleration(t1: Num, t2: Num, v1: Num, v2: Num, torque: Num, two: Any) -> tuple[Num, Num]:
    """Angular accelerations, as in Sutton's book; all lengths, masses and moments are 1, the centres of mass at 1/2."""
    cos, sin = np.cos(t2), np.sin(t2)
    d1 = 0.25 + (1.25 + cos) + 1.0 + 1.0
    d2 = 0.25 + 0.5 * cos + 1.0
    phi2 = 4.9 * np.cos(t1 + t2 - math.pi / 2)
    phi1 = -0.5 * _pow(v2, two) * sin - v2 * v1 * sin + 1.5 * 9.8 * np.cos(t1 - math.pi / 2) + phi2
    b = (torque + d2 / d1 * phi1 - 0.5 * _pow(v1, two) * sin - phi2) / (1.25 - _pow(d2, two) / d1)
    return -(d2 * b + phi1) / d1, b


def mountain_car(s: Any, a: Num, o: Any, first: Num, single: bool, p: Any) -> tuple[Num, Num]:
    """State and obs: position and velocity. p[1]: the goal's velocity."""
    speed = s[1] + ((a - 1) * 0.001 + np.cos(3 * s[0]) * -0.0025)
    speed = np.minimum(np.maximum(speed, -0.07), 0.07)
    position = np.minimum(np.maximum(s[0] + speed, -1.2), 0.6)
    speed = _pick((position == -1.2) & (speed < 0), 0.0, speed)
    s[0], s[1] = position, speed
    o[0], o[1] = position, speed
    return -1.0, (position >= 0.5) & (speed >= p[1])


def mountain_car_continuous(s: Any, a: Num, o: Any, first: Num, single: bool, p: Any) -> tuple[Num, Num]:
    """State and obs: position and velocity, in float32 after the first step as in gymnasium. p[1]: the goal's velocity.

    In NumPy, float32 with a Python number stays float32, and with a float64 array element becomes float64. So a row is
    wide (float64) in its first step, and if its action is float64 and not clipped to a bound, a Python number.
    """
    inside = (a >= -1.0) & (a <= 1.0)
    wide = first | (inside & (not single))
    gravity = 0.0025 * np.cos(_pick(first, 3 * s[0], _f32(3 * s[0])))
    push = np.minimum(np.maximum(a, -1.0), 1.0) * 0.0015 - gravity
    push = _pick(inside & single, _f32(_f32(a * _f32(0.0015)) - _f32(gravity)), push)
    speed = _pick(wide, s[1] + push, _f32(s[1] + _f32(push)))
    wide = first | (wide & (np.abs(speed) <= 0.07))  # a clipped velocity is a Python number too
    speed = np.minimum(np.maximum(speed, -0.07), 0.07)
    position = _pick(wide, s[0] + speed, _f32(s[0] + _f32(speed)))
    position = np.minimum(np.maximum(position, -1.2), 0.6)
    speed = _pick((position == -1.2) & (speed < 0), 0.0, speed)
    terminated = (position >= _pick(wide, 0.45, _f32(0.45))) & (speed >= _pick(wide, p[1], _f32(p[1])))
    s[0], s[1] = _f32(position), _f32(speed)
    o[0], o[1] = s[0], s[1]
    return _pick(terminated, 100.0, 0.0) - _pow(a, p[0]) * 0.1, terminated


def pendulum(s: Any, a: Num, o: Any, first: Num, single: bool, p: Any) -> tuple[Num, Num]:
    """State: angle, velocity, last torque; obs: cosine and sine of the angle, velocity. p[1]: 3 g / 2."""
    theta, speed = s[0], s[1]
    u = np.minimum(np.maximum(a, -2.0), 2.0)
    if single:
        push = np.float64(np.float32(3.0) * np.float32(u))
        effort = np.float64(np.float32(0.001) * _pow(np.float32(u), p[0]))
    else:
        push, effort = 3.0 * u, 0.001 * _pow(u, p[0])
    angle = (theta + math.pi) % (2 * math.pi) - math.pi
    cost = _pow(angle, p[0]) + 0.1 * _pow(speed, p[0]) + effort
    speed = np.minimum(np.maximum(speed + (p[1] * np.sin(theta) + push) * 0.05, -8.0), 8.0)
    theta = theta + speed * 0.05
    s[0], s[1], s[2] = theta, speed, u
    o[0], o[1], o[2] = np.cos(theta), np.sin(theta), speed
    return -cost, False


_CARTPOLE_ANGLE = 12 * 2 * math.pi / 360


# Functions that differ between NumPy and numba; `_register_with_numba` registers the numba versions.


def _pick(condition: Num, a: Num, b: Num) -> Num:
    return np.where(condition, a, b)


def _f32(x: Num) -> Num:
    """Rounded to float32."""
    return np.float64(np.float32(x))


def _wrap(x: Num) -> Num:
    """Wraps to [-pi, pi], one turn at a time."""
    while np.any(x > math.pi):
        x = np.where(x > math.pi, x - 2 * math.pi, x)
    while np.any(x < -math.pi):
        x = np.where(x < -math.pi, x + 2 * math.pi, x)
    return x


def _pow(x: Num, two: Any) -> Num:
    """The pow of libm, which gymnasium's `x**2` of a scalar uses.

    x * x and the power of arrays differ from it by one bit in one of a thousand cases. libm's powf has no array form.
    """
    if x.dtype == np.float32:
        return np.array([number ** np.float32(two) for number in x])
    return np.float_power(x, two)


def _wrap_number(x: float) -> float:
    while x > math.pi:
        x -= 2 * math.pi
    while x < -math.pi:
        x += 2 * math.pi
    return x


@functools.cache
def _register_with_numba() -> None:
    """Registers the numba versions of the functions above."""
    from numba import types
    from numba.extending import overload, register_jitable

    def wrap(x: float) -> Any:  # numba requires the name and annotations of what it returns
        return _wrap_number

    overload(_wrap)(wrap)
    overload(_pick)(lambda condition, a, b: lambda condition, a, b: a if condition else b)
    overload(_f32)(lambda x: lambda x: np.float64(np.float32(x)))
    # The exponent comes from p: the compiler would turn a constant 2 into x * x.
    overload(_pow)(
        lambda x, two: (lambda x, two: x ** np.float32(two)) if x == types.float32 else (lambda x, two: x**two)
    )
    register_jitable(_acrobot_acceleration)


@functools.cache
def compiled(row: Row, discrete: bool) -> Callable[..., int]:
    """One step of a batch with time limits, episode ends and resets, in one call of compiled code.

    The compiled code is cached on disk: compiling takes seconds once, loading half a second. The cache is invalidated
    when this file changes, so everything that is compiled must be in this file.

    Args:
        row: one of the row functions.
        discrete: whether actions are int64 rather than float64.
    Raises:
        ImportError: numba is not installed. Other errors of numba are not caught.
    """
    from numba import njit
    from numba.extending import register_jitable

    _register_with_numba()
    register_jitable(row)

    def step(
        state: Any, obs: Any, elapsed: Any, ended: Any, drawn: Any, drawn_obs: Any, used: Any,
        actions: Any, single: bool, low: Any, high: Any, p: Any, limit: int, same_step: bool,
        new_obs: Any, final_obs: Any, reward: Any, terminated: Any, truncated: Any,
    ) -> int:  # fmt: skip
        """`NativeVectorEnv.step` in one pass; returns the number of rows that ended, BAD_ACTION or EXHAUSTED."""
        for i in range(len(actions)):
            if not (low <= actions[i] <= high):
                return BAD_ACTION
        for i in range(len(actions)):
            if used[i] == drawn.shape[1]:
                return EXHAUSTED
        count = 0
        for i in range(len(actions)):
            if ended[i]:  # NEXT_STEP: this step resets the row
                reward[i], done, restart = 0.0, False, True
                terminated[i] = truncated[i] = False
            else:
                reward[i], terminated[i] = row(state[:, i], actions[i], obs[i], elapsed[i] == 0, single, p)
                elapsed[i] += 1
                truncated[i] = elapsed[i] >= limit
                done = terminated[i] or truncated[i]
                restart = done and same_step
            ended[i] = done and not same_step
            count += done
            for j in range(obs.shape[1]):  # loops: assigning slices would double the time of the whole step
                final_obs[i, j] = obs[i, j]
            if restart:
                for j in range(state.shape[0]):
                    state[j, i] = drawn[i, used[i], j]
                for j in range(obs.shape[1]):
                    obs[i, j] = drawn_obs[i, used[i], j]
                used[i] += 1
                elapsed[i] = 0
            for j in range(obs.shape[1]):
                new_obs[i, j] = obs[i, j]
        return count

    action, flags, counts = "int64" if discrete else "float64", "boolean[::1]", "int64[::1]"
    f32, f64 = "float32[:, ::1]", "float64[:, ::1]"
    memory = f"{f64}, {f32}, {counts}, {flags}, float64[:, :, ::1], float32[:, :, ::1], {counts}"
    given = f"{action}[::1], boolean, {action}, {action}, float64[::1], int64, boolean"
    signature = f"int64({memory}, {given}, {f32}, {f32}, float64[::1], {flags}, {flags})"
    # NumPy's division: Python's check for 0 takes as long as everything else.
    machine_code: Callable[..., int] = njit(signature, cache=True, error_model="numpy")(step)
    return machine_code
