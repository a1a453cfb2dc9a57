"""Trains a network that tunes a PI controller to its plant, on a staircase of a cost; beside CMA-ES.

A plant is a lag with a dead time, K exp(-L s) / (T s + 1), read by a sensor of coarse steps: K, T and L differ from
plant to plant and are known, as a step test would tell them. The network says the controller's two gains. The black box
closes the loop, steps the setpoint and later the load, and gives, at the end, the number of samples at which the sensor
was off the setpoint: a whole number, whose slope is 0 wherever it has one. CMA-ES searches the weights of the same
network, or of a linear one, with as many simulations. SIMC (Skogestad 2003) is a rule of thumb of engineers, and knows
nothing of this cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from costgrad.rl.black_box.calls import BlackBox
from costgrad.rl.black_box.loss import BlackBoxLoss
from costgrad.rl.errors import UserError
from costgrad.scripts.cli import guarded, parse
from costgrad.scripts.examples.tables import check_folder, print_table, save_figure, write_rows

SAMPLES, LOAD = 200, 0.5  # the load comes half-way
STEP, SETPOINT = 0.1, 10  # of the sensor; in such steps
REACH = 10.0  # of the valve, to either side
RANGES = np.array([(0.25, 4.0), (4.0, 40.0), (1.0, 10.0)])  # of gain K, lag T and dead time L in samples, log-uniform
GAINS = np.array([0.3, 10.0])  # proportional gain, and integral time in samples, where the network gives 0
HELD_OUT = 500  # plants
METHODS = ("C", "CMA-ES", "CMA-ES, linear")
# Tuned on seeds from 100 on.
BATCH, LEARNING_RATE, SIGMA = 32, 1e-2, 0.1
SEARCH = {"CMA-ES": (0.1, 16), "CMA-ES, linear": (0.3, 8)}  # first step, and plants that each candidate is tried on


@dataclass(frozen=True)
class Args:
    """Flags of scripts/examples/controller.py."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of plants, initial weights and perturbations, a run of each method for each."""
    evaluations: int = 16_000
    """Budget of simulations per method."""
    out: str = "results/examples"
    """Folder to write controller.csv and controller.png to."""


class Row(NamedTuple):
    """One run, after so many simulations."""

    method: str
    seed: int
    evaluations: int  # of the black box
    cost: float  # samples off the setpoint, mean over held-out plants


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, prints and draws; returns the exit code: 0, or 2 for wrong input."""
    return guarded(_controller, argv)


def _controller(argv: Sequence[str]) -> int:
    args: Args = parse(Args, argv, "examples/controller", __doc__ or "")
    if args.evaluations < 1_000 or not args.seeds or min(args.seeds) < 0:
        raise UserError(
            f"evaluations must be at least 1,000 and seeds at least 0, got {args.evaluations} and {args.seeds}"
        )
    folder = check_folder(args.out)
    torch.set_num_threads(1)
    runs = [(method, seed) for method in METHODS for seed in args.seeds]
    curves = [run(*each, args.evaluations) for each in track(runs, "controller")]
    rule = [Row("SIMC", seed, 0, cost_of(simc(tests(seed)), tests(seed))) for seed in args.seeds]
    write_rows(folder / "controller.csv", [*(row for curve in curves for row in curve), *rule])
    print_table([*(curve[-1] for curve in curves), *rule], "method", "cost", worst=max)
    save_figure(folder / "controller.png", lambda panel: _draw(panel, curves, rule))
    return 0


def tests(seed: int) -> np.ndarray:
    """K, T and L of held-out plants [500, 3]."""
    return drawn(np.random.default_rng([seed, 1]), HELD_OUT)


def drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """K, T and L of plants [N, 3], log-uniform."""
    low, high = np.log(RANGES).T
    return np.exp(rng.uniform(low, high, (count, 3)))


def known(plants: np.ndarray) -> Tensor:
    """What the network sees of plants: logs, from -1 to 1 [N, 3]."""
    low, high = np.log(RANGES).T
    return torch.from_numpy((2 * np.log(plants) - low - high) / (high - low)).float()


def off_setpoint(output: np.ndarray, context: np.ndarray | None, plants: np.ndarray) -> np.ndarray:
    """The black box: samples at which the sensor was off the setpoint [N], of the logs of gains [N, 2] over GAINS."""
    gain, integral_time = (GAINS * np.exp(np.clip(output, -5, 5))).T
    stays, delay = np.exp(-1 / plants[:, 1]), np.round(plants[:, 2]).astype(int)
    n, rows = len(plants), np.arange(len(plants))
    level, integral, off = np.zeros(n), np.zeros(n), np.zeros(n)
    valve = np.zeros((SAMPLES, n))
    for t in range(SAMPLES):
        steps = SETPOINT - np.round(level / STEP)
        off += steps != 0
        error = STEP * steps
        wanted = gain * error + integral
        valve[t] = np.clip(wanted, -REACH, REACH)
        integral += np.where(wanted == valve[t], gain / integral_time * error, 0.0)  # it does not wind up
        acting = np.where(t >= delay, valve[t - delay, rows], 0.0) + (LOAD if t >= SAMPLES // 2 else 0.0)
        level = stays * level + (1 - stays) * plants[:, 0] * acting
    return off


def cost_of(output: np.ndarray, plants: np.ndarray) -> float:
    """Its mean over plants."""
    return float(off_setpoint(output, None, plants).mean())


def simc(plants: np.ndarray) -> np.ndarray:
    """Skogestad's rule, as the black box takes it: K_c = T / (2 K L), T_i = min(T, 8 L)."""
    k, lag, dead = plants.T
    return np.log(np.stack((lag / (2 * k * dead), np.minimum(lag, 8 * dead)), 1) / GAINS)


def network(seed: int, linear: bool = False) -> nn.Module:
    """From what is known of plants [N, 3] to logs of gains [N, 2], 0 at first."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        last = nn.Linear(3 if linear else 16, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return last if linear else nn.Sequential(nn.Linear(3, 16), nn.Tanh(), last)


def run(method: str, seed: int, evaluations: int) -> list[Row]:
    """Rows along a run, about 20 of them, the last one of the final network."""
    held_out, rows, looked = tests(seed), [], 0
    steps = through_c(seed, evaluations) if method == "C" else cma_es(method, seed, evaluations)
    for asked, model, last in steps:
        if last or asked - looked >= evaluations / 20:
            looked = asked
            with torch.no_grad():
                rows.append(Row(method, seed, asked, cost_of(model(known(held_out)).numpy(), held_out)))
    return rows


def through_c(seed: int, evaluations: int) -> Iterator[tuple[int, nn.Module, bool]]:
    """Trains through C: simulations so far, the network, and whether it is the final one."""
    rng, model = np.random.default_rng([seed, 0]), network(seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    calls = evaluations // BATCH
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, calls)
    criterion = BlackBoxLoss(off_setpoint, sigma=SIGMA, seed=seed, budget=evaluations)
    for call in range(1, calls + 1):
        batch = drawn(rng, BATCH)
        loss = criterion(model(known(batch)), context=known(batch), private=batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
        yield criterion.ledger.evaluations, model, call == calls


def cma_es(method: str, seed: int, evaluations: int) -> Iterator[tuple[int, nn.Module, bool]]:
    """Searches the weights: simulations so far, the network at the mean of the search, and whether that is all."""
    try:
        from cmaes import CMA
    except ImportError as error:
        raise UserError(f'this example needs cmaes: pip install -e ".[examples]" ({error})') from error
    (step, count), rng = SEARCH[method], np.random.default_rng([seed, 0])
    model = network(seed, linear=method != "CMA-ES")
    box = BlackBox(off_setpoint, budget=evaluations)
    start = nn.utils.parameters_to_vector(model.parameters()).detach().double().numpy()
    search = CMA(mean=start, sigma=step, seed=seed)
    generations = evaluations // (search.population_size * count)
    for generation in range(1, generations + 1):
        batch, told = drawn(rng, count), []  # the same plants for all candidates of a generation
        for _ in range(search.population_size):
            candidate = search.ask()
            cost = box([_gains(model, candidate, batch)], None, batch, count)[0]
            told.append((candidate, float(cost.mean())))
        search.tell(told)
        _gains(model, search.mean, batch)
        yield box.ledger.evaluations, model, generation == generations


def _gains(model: nn.Module, weights: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Sets the weights; what the network then says."""
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(weights).float(), model.parameters())
        return model(known(batch)).numpy()


def _draw(panel: Any, curves: Sequence[Sequence[Row]], rule: Sequence[Row]) -> None:
    """Mean cost over seeds against simulations, best to worst as a band."""
    for method in METHODS:
        mine = [curve for curve in curves if curve[0].method == method]
        cost, asked = np.array([[row.cost for row in curve] for curve in mine]), [row.evaluations for row in mine[0]]
        panel.plot(asked, cost.mean(0), label=method)
        panel.fill_between(asked, cost.min(0), cost.max(0), alpha=0.2, linewidth=0)
    panel.axhline(np.mean([row.cost for row in rule]), color="black", lw=1, ls="--", label="SIMC, a rule of thumb")
    panel.set(xlabel="simulations", ylabel=f"samples off the setpoint, of {SAMPLES}, held-out plants")


if __name__ == "__main__":
    raise SystemExit(main())
