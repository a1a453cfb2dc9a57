"""C as a loss: gradients against exact ones, with and without correction; inputs; files; training."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from costgrad.rl.black_box.evaluations import SetBuffer
from costgrad.rl.black_box.loss import BlackBoxLoss, CostConfig
from costgrad.rl.errors import UserError

SMALL = CostConfig(hidden=(16,), gradient_steps=4, batch_size=32, buffer_size=512)
KEPT = CostConfig(hidden=(16,), gradient_steps=0, samples=2)  # C does not learn: its bias stays what it is


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def opinionated(criterion: BlackBoxLoss, output: Tensor, context: Tensor | None, seed: int = 1) -> BlackBoxLoss:
    """With a C that has an opinion, and a wrong one."""
    criterion(output, context, None)
    assert criterion.critic is not None
    with torch.no_grad():
        for parameter in criterion.critic.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator(seed)))
    return criterion


def gradients(criterion: BlackBoxLoss, output: Tensor, context: Tensor | None, count: int, copies: int = 1) -> Tensor:
    """Gradients of so many calls, [count, *output.shape]; `copies` of them are made as one of more rows."""
    drawn = []
    tiled, contexts = (x if x is None else x.repeat(copies, *[1] * (x.dim() - 1)) for x in (output, context))
    assert tiled is not None
    for _ in range(count // copies):
        leaf = tiled.clone().requires_grad_()
        slope = torch.autograd.grad(criterion(leaf, contexts), leaf)[0]
        drawn.append(copies * slope.view(copies, *output.shape))  # a mean over more rows
    return torch.cat(drawn)


def assert_mean(drawn: Tensor, truth: Tensor, equal: bool = True) -> None:
    """Within 4.5 standard errors everywhere, or by more than 10 somewhere."""
    error = (drawn.mean(0) - truth).abs() / (drawn.std(0) / len(drawn) ** 0.5 + 1e-9)
    assert (error < 4.5).all() if equal else (error > 10).any(), error


# Gradients -----------------------------------------------------------------------------------------------------------

SIGMA = 0.3


def square(output: Any, context: Any, private: Any) -> np.ndarray:
    return ((output - (0 if context is None else context)) ** 2).sum(1)


def mean(output: Any, context: Any, private: Any) -> float:
    return float(output.mean())


@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_continuous_outputs_unbiased_with_correction_alone(evaluations: int, correction: bool) -> None:
    """D/do of E |o + sigma n - c|^2, a mean over rows, is 2 (o - c) / B whatever C says."""
    output, context = torch.randn(3, 2, generator=generator()), torch.randn(3, 2, generator=generator(1))
    criterion = BlackBoxLoss(square, sigma=SIGMA, evaluations=evaluations, correction=correction, config=KEPT)
    drawn = gradients(opinionated(criterion, output, context), output, context, 3_000, 50)
    assert_mean(drawn, 2 * (output - context) / 3, equal=correction)


def test_skipped_evaluations_leave_the_correction_unbiased() -> None:
    """Half of the answers do not come, whatever was asked: the mean is over those that did."""
    lost, output = np.random.default_rng(0), torch.randn(3, 2, generator=generator())

    def cost_fn(output: Any, context: Any, private: Any) -> np.ndarray:
        return np.where(lost.random(len(output)) < 0.5, np.nan, square(output, context, private))

    criterion = BlackBoxLoss(cost_fn, sigma=SIGMA, evaluations=6, correction=True, on_fault="skip", config=KEPT)
    drawn = gradients(opinionated(criterion, output, None), output, None, 1_500, 50)
    assert_mean(drawn, 2 * output / 3)
    assert 0.45 < criterion.ledger.failures / criterion.ledger.evaluations < 0.55


TABLE = torch.tensor([[1.0, 0.0, 5.0, 2.0], [0.0, 3.0, 1.0, 4.0]])


def looked_up(output: Any, context: Any, private: Any) -> np.ndarray:
    return TABLE.numpy()[np.arange(len(output)) % 2, output]


@pytest.mark.parametrize("correction", [True, False])
def test_choices_unbiased_with_correction_alone(correction: bool) -> None:
    """D/dp of sum_i p_i f_i, along the simplex: f less its mean."""
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.4, 0.1]])
    criterion = BlackBoxLoss(looked_up, choices=4, correction=correction, config=KEPT)
    drawn = gradients(opinionated(criterion, probs, None), probs, None, 3_000, 50)
    along = drawn - drawn.mean(-1, keepdim=True)
    if correction:
        assert_mean(along, (TABLE - TABLE.mean(-1, keepdim=True)) / 2)
    else:  # the expectation over all choices: nothing is drawn, and the bias is C's
        assert along.std(0).max() < 1e-6 and (along[0] - (TABLE - TABLE.mean(-1, keepdim=True)) / 2).abs().max() > 0.1


def mixed(output: Any, context: Any, private: Any) -> np.ndarray:
    numbers, choice = output
    return (numbers[:, 0] - choice[:, 0]) ** 2 + 0.5 * choice[:, 1]


def test_mixtures_are_unbiased_with_correction() -> None:
    """E over a number and two choices: (o - i)^2 + sigma^2 + j / 2, by enumeration."""
    numbers, first, second = torch.tensor([[0.3]]), torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([[0.6, 0.4]])
    output = torch.cat((numbers, first, second), 1)
    criterion = BlackBoxLoss(mixed, choices=(3, 2), sigma=SIGMA, correction=True, config=KEPT)
    drawn = gradients(opinionated(criterion, output, None), output, None, 6_000, 50)
    leaf = output.clone().requires_grad_()
    o, p, q = leaf[:, :1], leaf[:, 1:4], leaf[:, 4:]
    truth = (p * (o - torch.arange(3)) ** 2).sum() + 0.5 * q[0, 1]
    (slope,) = torch.autograd.grad(truth, leaf)
    parts = (slice(0, 1), slice(1, 4), slice(4, 6))
    for part in parts:
        size = part.stop - part.start
        centred = [g[..., part] - (g[..., part].mean(-1, keepdim=True) if size > 1 else 0) for g in (drawn, slope)]
        assert_mean(*centred)


def test_a_cost_of_the_set_alone_is_unbiased_with_correction() -> None:
    """F = (share of rows that chose 1)^2, by enumeration of both rows' choices."""
    probs = torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    criterion = BlackBoxLoss(
        lambda o, c, p: float(o.mean() ** 2), choices=2, per="batch", correction=True, config=KEPT, evaluations=2
    )
    drawn = gradients(opinionated(criterion, probs, None), probs, None, 1_000)
    leaf = probs.clone().requires_grad_()
    truth = sum(leaf[0, i] * leaf[1, j] * ((i + j) / 2) ** 2 for i in (0, 1) for j in (0, 1))
    (slope,) = torch.autograd.grad(truth, leaf)  # type: ignore[arg-type]
    assert_mean(drawn - drawn.mean(-1, keepdim=True), slope - slope.mean(-1, keepdim=True))
    assert criterion.ledger.evaluations == 2 * 1_001


def test_a_perfect_c_removes_the_variance() -> None:
    """Order of variance: the score alone (C of 0), the correction of a trained C, and C alone."""
    output, context = torch.randn(8, 2, generator=generator()), torch.randn(8, 2, generator=generator(1))
    spread = {}
    for name, correction, calls in (("score", True, 0), ("corrected", True, 100), ("through C", False, 100)):
        config = CostConfig(hidden=(64,), gradient_steps=8, learning_rate=3e-3, samples=16)
        criterion = BlackBoxLoss(square, sigma=SIGMA, correction=correction, config=config)
        for i in range(calls):
            criterion(output.repeat(4, 1) + 0.3 * torch.randn(32, 2, generator=generator(i)), context.repeat(4, 1))
        criterion.config = CostConfig(hidden=(64,), gradient_steps=0, samples=16)
        spread[name] = gradients(criterion, output, context, 300, 50).var(0).mean()
    assert spread["through C"] < 0.5 * spread["corrected"] and spread["corrected"] < 0.3 * spread["score"]


def test_a_residual_after_learning_would_be_biased() -> None:
    """Negative control: with C trained on the very answers, the correction vanishes and the bias comes back."""

    class Late(BlackBoxLoss):
        def _evaluate(self, sample: Any, context: Any, private: Any) -> Any:
            cost, counts = super()._evaluate(sample, context, private)
            self._learn(context, sample, cost, counts)
            return cost, counts

    output = torch.zeros(1, 1)
    noisy = np.random.default_rng(0)

    def cost_fn(output: Any, context: Any, private: Any) -> np.ndarray:
        return output[:, 0] + 3 * noisy.standard_normal(len(output))

    def drawn(kind: type[BlackBoxLoss], config: CostConfig) -> Tensor:
        fresh = [kind(cost_fn, sigma=SIGMA, correction=True, config=config, seed=i) for i in range(40)]
        return torch.cat([gradients(criterion, output, None, 1) for criterion in fresh])

    assert_mean(drawn(BlackBoxLoss, KEPT), torch.ones(1, 1))
    learning = CostConfig(hidden=(16,), batch_size=8, gradient_steps=60, learning_rate=0.1, samples=2)
    assert_mean(drawn(BlackBoxLoss, learning), torch.ones(1, 1))
    assert_mean(drawn(Late, learning), torch.ones(1, 1), equal=False)


# What is seen, and by whom --------------------------------------------------------------------------------------------


def test_the_black_box_sees_context_and_private_and_c_the_context_alone() -> None:
    seen: list[Any] = []

    def cost_fn(output: Any, context: Any, private: Any) -> np.ndarray:
        seen.append((output, context, private))
        return np.zeros(len(output))

    criterion = BlackBoxLoss(cost_fn, choices=3, config=SMALL)
    context, labels = torch.randn(4, 2, 2), torch.arange(4)
    criterion(torch.full((4, 3), 1 / 3), context, labels)
    output, got, private = seen[0]
    assert output.shape == (4,) and output.dtype == np.int64 and np.array_equal(got, context.numpy())
    assert private.tolist() == [0, 1, 2, 3] and criterion.critic is not None
    assert criterion.critic.c.spec.obs_shape == (4,)  # type: ignore[union-attr]


def test_evaluations_are_counted_in_training_and_none_are_made_in_eval_mode() -> None:
    criterion = BlackBoxLoss(square, evaluations=3, config=SMALL)
    output = torch.randn(5, 2, requires_grad=True)
    criterion(output)
    assert criterion.ledger.evaluations == 15
    loss = criterion.eval()(output)
    assert criterion.ledger.evaluations == 15 and torch.autograd.grad(loss, output)[0].abs().sum() > 0
    assert criterion.measure(output) == pytest.approx(float(output.detach().square().sum(1).mean()), rel=1e-5)
    assert criterion.ledger.evaluations == 20


def test_numbers_that_are_not_finite_are_refused_before_any_evaluation() -> None:
    criterion = BlackBoxLoss(square, on_fault="skip", config=SMALL)
    good, bad = torch.randn(6, 2, generator=generator()), torch.full((6, 2), torch.nan)
    criterion(good, good)
    for name, call in (("output", (bad, good)), ("context", (good, bad))):
        with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
            criterion(*call)
    assert criterion.ledger.evaluations == 6 and torch.isfinite(criterion(good, good))


def test_private_has_as_many_rows_as_the_output() -> None:
    criterion = BlackBoxLoss(square, config=SMALL)
    for private in (torch.zeros(7), [0] * 5, (np.zeros(6), np.zeros(7))):
        with pytest.raises(UserError, match=r"private has \d rows and output 6: they must be equal"):
            criterion(torch.randn(6, 2), private=private)
    assert torch.isfinite(criterion(torch.randn(6, 2), private=(np.zeros(6), ["a"] * 6)))


def test_a_context_may_be_one_number_a_row() -> None:
    criterion = BlackBoxLoss(lambda o, c, p: (o[:, 0] - c) ** 2, config=SMALL)
    assert torch.isfinite(criterion(torch.randn(6, 1), torch.arange(6)))


def test_c_is_not_trained_on_failed_rows() -> None:
    def broken(output: Any, context: Any, private: Any) -> np.ndarray:
        return np.where(np.arange(len(output)) % 2, np.nan, 1.0)

    criterion = BlackBoxLoss(broken, on_fault="skip", config=SMALL)
    loss = criterion(torch.randn(6, 2))
    assert torch.isfinite(loss) and criterion.buffer.size == 3 and criterion.ledger.failures == 3
    assert (criterion.buffer.data.cost[:3] == 1).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_what_the_caller_does_to_its_tensors_later_does_not_matter(per: Any) -> None:
    """A context that is written over, or has a graph of its own, between calls."""

    def cost_fn(output: Any, context: Any, private: Any) -> Any:
        cost = (output[:, 0] - context[:, 0]) ** 2
        return cost if per == "sample" else float(cost.mean())

    def last(spoil: bool) -> Tensor:
        criterion = BlackBoxLoss(cost_fn, per=per, config=SMALL)
        for i in range(4):
            context = torch.randn(6, 2, generator=generator(i)).requires_grad_(spoil)
            loss = criterion(torch.ones(6, 1), 1 * context)
            once_more = torch.randn(6, 2, generator=generator(10 + i))
            criterion(torch.ones(6, 1), once_more)
            if spoil:
                once_more.fill_(1e6)
        return loss

    assert torch.equal(last(False), last(True).detach())


def test_a_model_of_float64_gets_a_gradient_of_float64() -> None:
    output, context = torch.randn(4, 2, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, dtype=torch.float64)
    criterion = BlackBoxLoss(square_of_first, correction=True, config=SMALL)
    for _ in range(2):
        (slope,) = torch.autograd.grad(criterion(output, context), output)
    assert slope.dtype == torch.float64 and slope.abs().sum() > 0
    probs = torch.full((4, 3), 1 / 3, dtype=torch.float64, requires_grad=True)
    criterion = BlackBoxLoss(lambda o, c, p: o == 1, choices=3, correction=True, config=SMALL)
    assert torch.autograd.grad(criterion(probs), probs)[0].dtype == torch.float64


@pytest.mark.parametrize("choices", [(), (4,)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_half_precision_gets_the_gradient_of_a_full_one(
    dtype: torch.dtype, choices: tuple[int, ...]
) -> None:
    seen = []

    def cost(output: Any, context: Any, private: Any) -> Any:
        seen.append((output, context))
        return (output - context[:, 0]) ** 2 if choices else (output[:, 0] - context[:, 0]) ** 2

    output, context = torch.randn(6, 4, generator=generator()), torch.randn(6, 3, generator=generator(1)).to(dtype)
    exact = torch.tensor([0.5, 0.25, 0.125, 0.125])  # in any precision
    half = (exact.expand(6, 4) if choices else output).to(dtype)
    slopes = []
    for kind in (dtype, torch.float32):
        leaf = half.to(kind).requires_grad_()
        criterion = BlackBoxLoss(cost, choices, correction=True, config=SMALL)
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == dtype):
            slopes.append(torch.autograd.grad(criterion(leaf, context.to(kind)), leaf)[0])
            assert criterion.measure(leaf, context.to(kind)) > 0
            assert torch.isfinite(criterion(output.to(dtype).softmax(1), context.to(kind)))  # of sum 1 but for rounding
    assert slopes[0].dtype == dtype and slopes[1].abs().sum() > 0
    assert torch.equal(slopes[0], slopes[1].to(dtype))
    np.testing.assert_equal(seen[:2], seen[3:5])


def test_a_call_without_gradients_evaluates_nothing_in_training() -> None:
    criterion = BlackBoxLoss(square, config=SMALL)
    criterion(torch.randn(5, 2))
    with torch.no_grad():
        with pytest.raises(UserError, match=r"call eval\(\) before no_grad\(\)"):
            criterion(torch.randn(5, 2))
        assert torch.isfinite(criterion.eval()(torch.randn(5, 2)))
    assert criterion.ledger.evaluations == 5


def test_an_encoder_that_does_not_take_the_context_is_named() -> None:
    for encoder, context, line in (
        (nn.Linear(7, 2), torch.zeros(4, 3), r"encoder cannot take a context of shape \[B, \(3,\)\]: mat1 and mat2"),
        (
            nn.Embedding(7, 2),
            torch.zeros(4, dtype=torch.int64),
            r"an encoder and a context of torch.int64: it takes floats",
        ),
    ):
        criterion = BlackBoxLoss(square, encoder=encoder, config=SMALL)
        with pytest.raises(UserError, match=line):
            criterion(torch.zeros(4, 2), context)
        assert criterion.ledger.evaluations == 0


def test_choices_alone_are_learnt_without_a_context() -> None:
    """C has no input then, and says what each choice costs."""
    probs = torch.full((8, 4), 0.25)
    criterion = BlackBoxLoss(
        lambda o, c, p: TABLE.numpy()[0, o], choices=4, config=CostConfig(hidden=(16,), learning_rate=1e-2)
    )
    for _ in range(150):
        slope = gradients(criterion, probs, None, 1)[0]
    torch.testing.assert_close(8 * slope.mean(0), TABLE[0], rtol=0.1, atol=0.1)


def square_of_first(output: Any, context: Any, private: Any) -> Any:
    return (output[:, 0] - context[:, 0]) ** 2


def test_an_encoder_is_trained_with_c() -> None:
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    before = encoder[0].weight.clone()  # type: ignore[union-attr]
    criterion = BlackBoxLoss(lambda o, c, p: (o[:, 0] - c.mean((1, 2, 3))) ** 2, encoder=encoder, config=SMALL)
    for i in range(3):
        criterion(torch.randn(8, 1), torch.randn(8, 1, 5, 5, generator=generator(i)))
    assert not torch.equal(before, encoder[0].weight)  # type: ignore[union-attr]


def test_the_users_optimizer_is_not_touched_and_c_gets_no_gradient_of_the_users() -> None:
    model = nn.Linear(2, 2)
    criterion = BlackBoxLoss(square, config=SMALL)
    before = model.weight.clone()
    loss = criterion(model(torch.randn(5, 2)))
    assert torch.equal(before, model.weight)
    loss.backward()
    assert model.weight.grad is not None and all(p.grad is None for p in criterion.parameters())


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_it_is_saved_and_continues(per: Any, tmp_path: Path) -> None:
    cost_fn = square if per == "sample" else lambda o, c, p: float(o.mean())
    criterion = BlackBoxLoss(cost_fn, per=per, sigma=0.2, evaluations=2, config=SMALL, budget=1000)
    output = torch.randn(6, 2)
    for _ in range(3):
        criterion(output)
    criterion.save(tmp_path / "loss")
    again = BlackBoxLoss.load(tmp_path / "loss", cost_fn, budget=1000)
    assert again.ledger == criterion.ledger and again.outputs.sigma == 0.2
    assert torch.equal(again.eval()(output), criterion.eval()(output))
    with pytest.raises(UserError, match="was made without an encoder"):
        BlackBoxLoss.load(tmp_path / "loss", cost_fn, encoder=nn.Flatten())
    with pytest.raises(UserError, match="there is no C yet to save"):
        BlackBoxLoss(cost_fn).save(tmp_path / "none")


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_with_failed_rows_the_corrected_gradient_does_not_depend_on_c(per: Any) -> None:
    """The cost is linear: of rows that come its gradient is known, and C is not in it. Of two sets one comes."""

    def cost(output: Any, context: Any, private: Any) -> Any:
        fails = np.array([True, False, False])
        if per == "sample":
            return np.where(fails, np.nan, 2 * output[:, 0])
        asked.append(0)
        return np.nan if len(asked) % 3 == 0 else float(2 * output.sum())

    asked: list[int] = []
    output = torch.tensor([[0.1], [0.5], [-0.3]])
    settings: Any = {"per": per, "sigma": SIGMA, "correction": True, "on_fault": "skip", "config": KEPT}
    drawn = []
    for opinion in (False, True):
        criterion = BlackBoxLoss(cost, evaluations=2, **settings)
        if opinion:
            opinionated(criterion, output, None)
        drawn.append(gradients(criterion, output, None, 400))
    truth = torch.tensor([[0.0], [1.0], [1.0]]) if per == "sample" else torch.full((3, 1), 2.0)
    for each in drawn:
        assert_mean(each, truth)


def test_in_eval_mode_the_gradient_reaches_the_output_alone_and_training_is_not_disturbed() -> None:
    encoder = nn.Linear(1, 4)
    one, same = (BlackBoxLoss(square, encoder=copy.deepcopy(encoder), config=SMALL) for _ in range(2))
    x = torch.linspace(0, 1, 6)[:, None]
    said = []
    for criterion in (one, same):
        criterion(torch.ones(6, 2), x)
        if criterion is one:
            criterion.eval()
            output, context = torch.ones(6, 2, requires_grad=True), x.clone().requires_grad_()
            loss = criterion(output, context)
            loss.backward()
            assert output.grad is not None and output.grad.abs().sum() > 0 and context.grad is None
            assert all(p.grad is None and p.requires_grad for p in criterion.parameters())
            assert torch.equal(loss, criterion(output, x))  # under the same perturbations
            criterion.train()
        said.append(float(criterion(torch.ones(6, 2), x)))
    assert said[0] == said[1]


class Headed(nn.Module):
    """An encoder of which a part is not asked."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 4).requires_grad_(not frozen), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


@pytest.mark.parametrize("frozen", [False, True])
def test_an_encoder_may_be_frozen_and_have_unused_parameters(frozen: bool) -> None:
    encoder = Headed(frozen)
    body, head = encoder.body.weight.clone(), encoder.head.weight.clone()
    criterion = BlackBoxLoss(square, encoder=encoder, config=SMALL)
    x = torch.randn(6, 3, generator=generator()).double()  # it stays of float32, whatever the model is of
    for _ in range(3):
        criterion(torch.ones(6, 3), x)
    assert torch.equal(encoder.body.weight, body) == frozen and torch.equal(encoder.head.weight, head)
    assert encoder.body.weight.requires_grad != frozen


def test_eval_mode_before_training_and_other_dtypes() -> None:
    criterion = BlackBoxLoss(lambda o, c, p: o[:, 0] ** 2, config=SMALL).eval()
    with torch.inference_mode():
        criterion(torch.ones(4, 2), torch.ones(4, 1))
    criterion.train()
    for output, context in (
        (torch.float32, torch.float64),
        (torch.float64, torch.int64),
        (torch.float16, torch.float32),
    ):
        criterion(torch.ones(4, 2, dtype=output), torch.ones(4, 1, dtype=context))
    with pytest.raises(UserError, match=r"context holds torch.uint8, and torch.float32 before: it must be of one kind"):
        criterion(torch.ones(4, 2), torch.ones(4, 1, dtype=torch.uint8))


def test_private_tensors_in_a_tuple_become_numpy_and_are_cached() -> None:
    kinds = set()

    def cost(output: Any, context: Any, private: Any) -> Any:
        kinds.update(type(column) for column in private)
        return output[:, 0] * 0 + private[0] + private[1]

    criterion = BlackBoxLoss(cost, choices=2, cache=100, config=SMALL)
    probs, order = torch.tensor([[1.0, 0.0]]).expand(4, 2), torch.tensor([2, 0, 3, 1])
    private = torch.arange(4), torch.arange(4).to(torch.bfloat16)
    criterion.box.cost_fn = lambda o, c, p: cost(o[:, None], c, p)
    criterion(probs, private=private)
    criterion(probs, private=tuple(column[order] for column in private))
    assert kinds == {np.ndarray} and (criterion.ledger.evaluations, criterion.ledger.cached) == (4, 4)


@pytest.mark.parametrize("private", [3, {"a": 1}, {1, 2}, "ab", np.array(3), torch.tensor(2)])
def test_private_that_is_not_rows_is_refused_in_one_line(private: Any) -> None:
    with pytest.raises(UserError, match="it must be rows, such as an array, a Tensor or a list"):
        BlackBoxLoss(square, config=SMALL)(torch.ones(2, 2), private=private)


def gone_on(criterion: BlackBoxLoss, calls: int = 3) -> list[float]:
    """What it says of further outputs."""
    said = []
    for i in range(calls):
        torch.manual_seed(i)
        said.append(float(criterion(torch.randn(6, 2))))
    return said


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_continues_as_the_original_and_independently(copied: Any, per: Any) -> None:
    criterion = BlackBoxLoss(square if per == "sample" else mean, per=per, evaluations=2, config=SMALL)
    gone_on(criterion)
    again = copied(criterion)
    said = gone_on(criterion)
    assert gone_on(again) == said != gone_on(criterion)


@pytest.mark.parametrize("moved", [nn.Module.double, nn.Module.half, lambda m: m.to(torch.bfloat16), nn.Module.cpu])
def test_it_stays_float32_in_a_model_of_half_precision(moved: Any) -> None:
    criterion, same = (BlackBoxLoss(square, config=SMALL) for _ in range(2))
    assert gone_on(criterion) == gone_on(same)
    model = nn.ModuleDict({"policy": nn.Linear(1, 1), "criterion": criterion})
    moved(model)
    assert {p.dtype for p in criterion.parameters()} == {torch.float32}
    assert gone_on(criterion) == gone_on(same)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_the_buffer_moves_to_the_device(per: Any) -> None:
    criterion = BlackBoxLoss(square if per == "sample" else mean, per=per, config=SMALL)
    gone_on(criterion)
    criterion.to("meta")
    buffer = criterion.buffer
    parts = buffer.sets if isinstance(buffer, SetBuffer) else [buffer.data]
    columns = [column for part in parts for column in part or ()]
    assert columns and {column.device.type for column in columns} == {"meta"}


@pytest.mark.parametrize("built", [False, True])
def test_a_model_that_holds_it_is_saved_and_loaded_as_any_other(built: bool, tmp_path: Path) -> None:
    def model(settings: CostConfig = SMALL) -> nn.ModuleDict:
        criterion = BlackBoxLoss(square, evaluations=2, encoder=nn.Linear(1, 4), config=settings)
        return nn.ModuleDict({"policy": nn.Linear(3, 2), "criterion": criterion})

    def step(criterion: Any) -> float:
        return float(criterion(torch.ones(6, 2), torch.linspace(0, 1, 6)[:, None]))

    first, again = model(), model()
    step(first["criterion"])
    if built:
        step(again["criterion"])
    torch.save(first.state_dict(), tmp_path / "model.pt")
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for (name, a), (same, b) in zip(first.named_parameters(), again.named_parameters(), strict=True):
        assert name == same and torch.equal(a, b)
    one, other = first["criterion"], again["criterion"]
    assert isinstance(one, BlackBoxLoss) and isinstance(other, BlackBoxLoss)
    memory, same_memory = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert all(torch.equal(memory[k], same_memory[k]) for k in memory) and float(memory["step"]) > 0
    assert other.ledger == one.ledger and other.ledger.evaluations == 12
    assert torch.equal(one.outputs.generator.get_state(), other.outputs.generator.get_state())
    assert step(other) > 0
    with pytest.raises(UserError, match="config, choices and encoder must be the same"):
        model(CostConfig(hidden=(3,))).load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    BlackBoxLoss(square).load_state_dict(BlackBoxLoss(square).state_dict())  # neither has a C yet


@pytest.mark.parametrize(
    ("settings", "output", "line"),
    [
        ({"choices": 3}, torch.rand(2, 3) + 1, "must be probabilities"),
        ({"choices": 3}, torch.ones(2, 2), "it must be"),
        ({}, torch.ones(2), "it must be"),
        ({"sigma": 0.0}, torch.ones(2, 1), "sigma must be above 0, got 0.0"),
        ({"choices": 1}, torch.ones(2, 1), "choices must each be at least 2"),
        ({"choices": (20, 20)}, torch.ones(2, 40), "at most 256 combinations"),
        ({"evaluations": 0}, torch.ones(2, 1), "evaluations must be a whole number of at least 1, got 0"),
        ({"sigma": float("inf")}, torch.ones(2, 1), "sigma must be above 0, got inf"),
        ({"choices": (2.0,)}, torch.ones(2, 2), "choices must be whole numbers"),
        ({"evaluations": True}, torch.ones(2, 1), "evaluations must be a whole number of at least 1, got True"),
        ({"evaluations": 1.5}, torch.ones(2, 1), "evaluations must be a whole number of at least 1, got 1.5"),
        ({"encoder": len}, torch.ones(2, 1), "encoder must be an nn.Module, which is trained with C, got a builtin"),
        ({"encoder": nn.Linear(1, 1)}, torch.ones(2, 1), "there is an encoder and no context"),
        ({}, np.ones((2, 1)), "output is a ndarray: it must be a Tensor"),
        ({}, torch.ones(2, 1, dtype=torch.int64), "output holds torch.int64: it must hold floats"),
        ({"per": "row"}, torch.ones(2, 1), "per must be one of sample, batch, got 'row'"),
    ],
)
def test_bad_input_in_one_line(settings: dict[str, Any], output: Tensor, line: str) -> None:
    with pytest.raises(UserError, match=line):
        BlackBoxLoss(square, **settings)(output)


def test_a_shape_that_changes_is_refused() -> None:
    criterion = BlackBoxLoss(lambda o, c, p: o[:, 0], config=SMALL)
    criterion(torch.randn(4, 2))
    with pytest.raises(UserError, match="this C was made for"):
        criterion(torch.randn(4, 3))
    with pytest.raises(UserError, match="context has 3 rows and output 4"):
        criterion(torch.randn(4, 2), torch.randn(3, 1))


# Models ---------------------------------------------------------------------------------------------------------------


def train(criterion: BlackBoxLoss, model: nn.Module, calls: int, label: Any = None) -> Tensor:
    """Trains a model, and gives fresh contexts."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for i in range(calls):
        x = torch.randn(32, 3, generator=generator(i))
        loss = criterion(model(x), context=x, private=None if label is None else label(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.randn(500, 3, generator=generator(10**6))


@pytest.mark.parametrize("correction", [True, False])
def test_a_staircase_is_minimised(correction: bool) -> None:
    way = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.5, 0.5]])

    def staircase(output: Any, context: Any, private: Any) -> np.ndarray:
        return np.round(4 * ((output - context @ way.numpy()) ** 2).sum(1)) / 4

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    criterion = BlackBoxLoss(
        staircase, sigma=0.3, evaluations=2, correction=correction, config=CostConfig(learning_rate=3e-3)
    )
    x = train(criterion, model, 300)
    assert criterion.measure(model(x), x) < 0.1  # it is 3.4 at first


@pytest.mark.parametrize("per", ["sample", pytest.param("batch", marks=pytest.mark.slow)])
def test_a_classifier_learns_from_errors_alone_and_not_from_their_opposite(per: Any) -> None:
    def label(x: Tensor) -> Tensor:
        return (x[:, 0] > 0).long() + (x[:, 1] > 0).long()

    for sign in (1, -1):

        def errors(output: Any, context: Any, private: Any, sign: int = sign) -> Any:
            wrong = sign * (output != private)
            return wrong if per == "sample" else float(wrong.mean())

        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3), nn.Softmax(1))
        config = CostConfig(learning_rate=3e-3, batch_size=256)
        criterion = BlackBoxLoss(errors, choices=3, per=per, config=config, evaluations=1 if per == "sample" else 4)
        x = train(criterion, model, 250 if sign == 1 else 100, label)
        error = (model(x).argmax(1) != label(x)).float().mean()
        assert error < 0.15 if sign == 1 else error > 0.8


# On a GPU ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("correction", [True, False])
@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize(("choices", "numbers"), [((), 2), ((4,), 0), ((2, 3), 1)])
def test_a_model_on_a_gpu(choices: tuple[int, ...], numbers: int, per: str, correction: bool, tmp_path: Path) -> None:
    seen = []

    def cost_fn(output: Any, context: Any, private: Any) -> Any:
        seen.append((output, context, private))
        picked = output[1] if isinstance(output, tuple) else output
        cost = np.abs(picked.reshape(len(private), -1) - private[:, None]).sum(1)
        return cost if per == "sample" else float(cost.mean())

    settings: dict[str, Any] = {"choices": choices, "per": per, "correction": correction, "config": SMALL}
    criterion = BlackBoxLoss(cost_fn, **settings, evaluations=2)
    model = nn.Linear(3, numbers + sum(choices)).cuda()
    x, label = torch.randn(8, 3).cuda(), torch.arange(8).cuda() % 2

    def output() -> Tensor:
        continuous, *logits = torch.split(model(x), [numbers, *choices], 1)
        return torch.cat([continuous, *(each.softmax(1) for each in logits)], 1)

    for _ in range(3):
        model.zero_grad()
        criterion(output(), context=x, private=label).backward()
    assert model.weight.grad is not None and model.weight.grad.is_cuda and model.weight.grad.abs().max() > 0
    assert all(not isinstance(part, Tensor) for part in seen[0][1:])
    criterion.eval()
    criterion.save(tmp_path / "loss")
    here = BlackBoxLoss.load(tmp_path / "loss", cost_fn)
    torch.testing.assert_close(here.eval()(output().cpu(), context=x.cpu()), criterion(output(), context=x).cpu())
