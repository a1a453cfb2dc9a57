"""The example of a controller: its plant in closed form, what C and CMA-ES come to, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from costgrad.rl.black_box.loss import BlackBoxLoss
from costgrad.scripts.examples import controller
from tests.scripts.examples.test_examples import call, table


def test_the_loop_is_that_of_the_plant_in_closed_form() -> None:
    """A valve that hardly moves: the load lifts the level, as 1 - exp(-n / T), and the sensor reads 1 from 0.95 on."""
    still = np.full((2, 2), -1e9)  # clipped: the least gain
    still[:, 1] = 1e9
    cost = controller.off_setpoint(still, None, np.array([[2.0, 10.0, 1.0], [2.0, 20.0, 9.0]]))
    assert cost.tolist() == [100 + np.ceil(10 * np.log(20)), 100 + np.ceil(20 * np.log(20))]


def test_its_cost_is_a_staircase_of_whole_numbers() -> None:
    held_out = controller.tests(7)
    gains = controller.simc(held_out)
    cost = controller.off_setpoint(gains, None, held_out)
    assert (cost == np.round(cost)).all() and cost.min() > 0 and len(np.unique(cost)) > 20
    assert (controller.off_setpoint(gains + 1e-9, None, held_out) == cost).mean() > 0.99


def test_a_dead_time_is_waited_for() -> None:
    """Under gains that never oscillate, at the setpoint's step and at the load's."""
    plants = np.array([[1.0, 4.0, dead] for dead in (1.0, 2.0, 3.0, 4.0)])
    cost = controller.off_setpoint(np.log(np.array([[0.05, 0.5]] * 4) / controller.GAINS), None, plants)
    assert (np.diff(cost) >= 2).all()


def test_what_is_known_of_plants_and_the_rule_of_thumb() -> None:
    corners = controller.RANGES.T
    assert controller.known(corners).tolist() == [[-1.0] * 3, [1.0] * 3]
    gain, integral_time = controller.GAINS * np.exp(controller.simc(np.array([[2.0, 30.0, 3.0]]))[0])
    assert (gain, integral_time) == (pytest.approx(2.5), pytest.approx(24.0))


def test_c_learns_gains_from_few_simulations_that_cma_es_needs_more_for() -> None:
    ours, search = (controller.run(method, 100, 4_000)[-1] for method in ("C", "CMA-ES"))
    start = controller.cost_of(np.zeros((500, 2)), controller.tests(100))
    assert ours.evaluations == 4_000 and search.evaluations <= 4_000
    assert ours.cost < 50 < search.cost < start - 20


def test_a_cost_that_says_nothing_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(
        controller, "BlackBoxLoss", lambda box, **more: BlackBoxLoss(lambda o, c, p: 0 * p[:, 0], **more)
    )
    assert controller.run("C", 100, 2_000)[-1].cost > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_c_is_ahead_of_cma_es_and_of_the_rule(seed: int) -> None:
    ours, *others = (controller.run(method, seed, 16_000)[-1] for method in controller.METHODS)
    assert ours.evaluations == 16_000 and all(other.evaluations <= 16_000 for other in others)
    rule = controller.cost_of(controller.simc(controller.tests(seed)), controller.tests(seed))
    assert ours.cost < min(rule, *(other.cost for other in others))


def test_script(tmp_path: Path) -> None:
    done = call("controller", "--seeds", "3", "--evaluations", "1000", "--out", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    last = {row["method"]: int(row["evaluations"]) for row in table(tmp_path / "made/controller.csv")}
    assert last == {"C": 992, "CMA-ES": 816, "CMA-ES, linear": 960, "SIMC": 0}
    assert (tmp_path / "made/controller.png").read_bytes()[:4] == b"\x89PNG"
    bad = call("controller", "--evaluations", "999", cwd=tmp_path)
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1 and "evaluations must be at least" in bad.stderr
