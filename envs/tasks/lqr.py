"""The linear-quadratic regulator: a multi-step control problem with a closed-form optimum."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from costgrad.envs.tasks.batched import Array, BatchedTask, Transition


class LQR(BatchedTask):
    """A pushed mass with random disturbances, which make even the rest position cost something.

        s' = A s + B a + w,   w ~ N(0, noise^2 I),   cost = s' Q s + a' R a,   s_0 ~ U[-1, 1]^2
        A = [[1, 0.2], [0, 0.95]],  B = [[0], [0.2]],  Q = diag(1, 0.1),  R = [[0.1]],  a in [-10, 10]

    obs is s = (position, speed). The time limit truncates after T steps. With the optimal gain the standard
    deviation of the action is near 1, so it almost never reaches its bounds and the formulas below hold.

    Source: Bertsekas, Dynamic Programming and Optimal Control, vol. 1, section 3.1 (vol. 2, 3.2 with discount).
    """

    A = np.array([[1.0, 0.2], [0.0, 0.95]])
    B = np.array([[0.0], [0.2]])
    Q = np.diag([1.0, 0.1])
    R = np.array([[0.1]])

    horizon: int

    def __init__(self, horizon: int = 100, noise: float = 0.2, bound: float = 10.0) -> None:
        """T, the standard deviation of w in each component, and the action's bound."""
        self.horizon, self.noise, self.bound = horizon, noise, bound
        self.observation_space = Box(-np.inf, np.inf, (2,))
        self.action_space = Box(-bound, bound, (1,))

    def initial(self, rng: np.random.Generator, n: int) -> Array:
        """[n, 2]."""
        return rng.uniform(-1.0, 1.0, (n, 2))

    def observe(self, state: Array) -> Array:
        """[n, 2] float32."""
        return state.astype(np.float32)

    def transition(self, state: Array, action: Array, rng: np.random.Generator) -> Transition:
        """Takes state [n, 2], action [n, 1]; actions are clipped to their bounds. Nothing terminates."""
        n = len(state)
        action = np.clip(action.astype(np.float64), -self.bound, self.bound)
        cost = ((state @ self.Q) * state).sum(1) + ((action @ self.R) * action).sum(1)
        next_state = state @ self.A.T + action @ self.B.T + self.noise * rng.standard_normal((n, 2))
        return next_state, -cost, np.zeros(n, dtype=np.bool_)

    def cost_matrix(self, gamma: float = 1.0) -> Array:
        """P [2, 2]: s' P s is the optimal discounted cost-to-go of s, up to a constant.

        Riccati's equation, iterated from P = Q to its fixed point:
        P = Q + g A' P A - g^2 A' P B (R + g B' P B)^-1 B' P A.
        """
        P = self.Q
        for _ in range(10_000):
            K = self._gain(P, gamma)
            following = self.Q + gamma * self.A.T @ P @ (self.A - self.B @ K)
            if np.abs(following - P).max() < 1e-13:
                break
            P = following
        return P

    def optimal_gain(self, gamma: float = 1.0) -> Array:
        """K [1, 2] of the optimal action a = -K s without a time limit."""
        return self._gain(self.cost_matrix(gamma), gamma)

    def optimal_value(self, state: Array, gamma: float) -> Array:
        """The discounted return of the optimal controller without a time limit: state [n, 2] -> [n].

        -(s' P s + noise^2 tr(P) gamma / (1 - gamma)), for gamma < 1.
        """
        P = self.cost_matrix(gamma)
        return -(((state @ P) * state).sum(1) + self.noise**2 * np.trace(P) * gamma / (1 - gamma))

    def policy_matrix(self, gain: Array, gamma: float) -> Array:
        """P [2, 2] of a = -K s for any stable gain K [1, 2]: s' P s is its discounted cost-to-go, up to a constant.

        Lyapunov's equation, iterated to its fixed point: P = Q + K' R K + g (A - B K)' P (A - B K).
        """
        closed, weight = self.A - self.B @ gain, self.Q + gain.T @ self.R @ gain
        P = weight
        for _ in range(10_000):
            following = weight + gamma * closed.T @ P @ closed
            if np.abs(following - P).max() < 1e-13:
                break
            P = following
        return P

    def action_cost(self, state: Array, action: Array, gain: Array, gamma: float) -> Array:
        """The discounted cost of an action followed by a = -K s, without a time limit: [n, 2], [n, 1] -> [n].

        s' Q s + a' R a + g (m' P m + noise^2 tr(P) / (1 - g)) with m = A s + B a, for gamma g < 1.
        """
        P, mean = self.policy_matrix(gain, gamma), state @ self.A.T + action @ self.B.T
        now = ((state @ self.Q) * state).sum(1) + ((action @ self.R) * action).sum(1)
        return now + gamma * (((mean @ P) * mean).sum(1) + self.noise**2 * np.trace(P) / (1 - gamma))

    def cost_gradient(self, state: Array, action: Array, gain: Array, gamma: float) -> Array:
        """D `action_cost` / d action = 2 a' R + 2 g m' P B: [n, 2], [n, 1] -> [n, 1]."""
        mean = state @ self.A.T + action @ self.B.T
        return 2 * action @ self.R + 2 * gamma * mean @ self.policy_matrix(gain, gamma) @ self.B

    def expected_return(self, gain: Array) -> float:
        """The exact expected undiscounted return over T steps of a = -K s, for a gain K [1, 2].

        -sum over t < T of tr((Q + K' R K) S_t), with S_0 = I / 3 the covariance of U[-1, 1]^2 and
        S_{t+1} = (A - B K) S_t (A - B K)' + noise^2 I.
        """
        closed, weight = self.A - self.B @ gain, self.Q + gain.T @ self.R @ gain
        covariance, total = np.eye(2) / 3.0, 0.0
        for _ in range(self.horizon):
            total += float(np.trace(weight @ covariance))
            covariance = closed @ covariance @ closed.T + self.noise**2 * np.eye(2)
        return -total

    def optimal_return(self, gamma: float = 1.0) -> float:
        """The expected undiscounted return over T steps of the controller that is optimal for gamma."""
        return self.expected_return(self.optimal_gain(gamma))

    def best_return(self) -> float:
        """The highest expected return of any controller, including time-dependent ones.

        Backwards from P_T = 0: P_t = Q + A' P_{t+1} (A - B K_t); return = -(tr(P_0) / 3 + noise^2 sum tr(P_t), t >= 1).
        """
        P, disturbed = np.zeros((2, 2)), 0.0
        for _ in range(self.horizon):
            disturbed += self.noise**2 * float(np.trace(P))
            P = self.Q + self.A.T @ P @ (self.A - self.B @ self._gain(P, 1.0))
        return -(float(np.trace(P)) / 3.0 + disturbed)

    def _gain(self, P: Array, gamma: float) -> Array:
        """K = g (R + g B' P B)^-1 B' P A."""
        return gamma * np.linalg.solve(self.R + gamma * self.B.T @ P @ self.B, self.B.T @ P @ self.A)
