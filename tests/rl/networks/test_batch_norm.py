"""Batch normalisation against torch's own modules, member by member; whose statistics count, and for what."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from costgrad.rl.errors import UserError
from costgrad.rl.networks.batch_norm import EPSILON, MOMENTUM, BatchNormMLP
from costgrad.rl.networks.critic import Critic, CriticSpec

SIZES = (5, 8, 7, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(ensemble: int | None, seed: int = 0) -> BatchNormMLP:
    """One whose every parameter and statistic has a value of its own."""
    made, draw = BatchNormMLP(SIZES, ensemble, generator=generator()), generator(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=draw)
        for name, buffer in made.named_buffers():
            buffer.uniform_(0.5, 2.0, generator=draw) if "var" in name else buffer.normal_(generator=draw)
    return made.double()


def twin(made: BatchNormMLP, member: int) -> nn.Sequential:
    """The same of torch's own modules."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(SIZES)):
        linear = nn.Linear(fan_in, fan_out).double()
        lead = (lambda t: t[member]) if made.ensemble else (lambda t: t)
        linear.weight.data, linear.bias.data = lead(made.weights[i]).T.clone(), lead(made.biases[i]).flatten().clone()
        layers.append(linear)
        if i < len(SIZES) - 2:
            norm = nn.BatchNorm1d(fan_out, eps=EPSILON, momentum=MOMENTUM).double()
            part = slice(member * fan_out, (member + 1) * fan_out)
            norm.weight.data = lead(made.gains[i]).flatten().clone()
            norm.bias.data = lead(made.shifts[i]).flatten().clone()
            norm.running_mean = getattr(made, f"mean_{i}")[part].clone()
            norm.running_var = getattr(made, f"var_{i}")[part].clone()
            layers += [norm, nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ensemble", [None, 1, 3])
def test_each_member_is_what_torchs_modules_are(ensemble: int | None, training: bool) -> None:
    made = net(ensemble).train(training)
    x = torch.randn(20, 5, generator=generator(1), dtype=torch.float64, requires_grad=True)
    twins = [twin(made, k).train(training) for k in range(ensemble or 1)]
    out, expected = made(x), torch.stack([t(x) for t in twins])
    expected = expected if ensemble else expected[0]
    assert out.shape == expected.shape
    torch.testing.assert_close(out, expected)
    weight = torch.randn(out.shape, generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((out * weight).sum(), x), torch.autograd.grad((expected * weight).sum(), x)
    )
    for i in range(2):  # running statistics moved alike, and only in training
        theirs = [t[1 + 3 * i] for t in twins]
        torch.testing.assert_close(getattr(made, f"mean_{i}"), torch.cat([n.running_mean for n in theirs]))
        torch.testing.assert_close(getattr(made, f"var_{i}"), torch.cat([n.running_var for n in theirs]))
        assert torch.equal(getattr(made, f"mean_{i}"), getattr(net(ensemble), f"mean_{i}")) != training


def test_the_first_member_alone_and_rows_of_each_member() -> None:
    made = net(3).eval()
    x = torch.randn(3, 20, 5, generator=generator(1), dtype=torch.float64)
    assert torch.equal(made(x[0], first=True), made(x[0])[:1])
    torch.testing.assert_close(made(x)[2], made(x[2])[2])


def test_in_use_a_row_is_its_own_and_in_training_it_is_not() -> None:
    made = net(2)
    x = torch.randn(20, 5, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(made.eval()(x)[:, :10], made(x[:10]))
    assert (made.train()(x)[:, :10] - made(x[:10])).abs().max() > 0.1


def test_the_gradient_runs_through_the_statistics() -> None:
    made = net(2).train()
    x = torch.randn(6, 5, generator=generator(1), dtype=torch.float64, requires_grad=True)

    def tanh_of(x: Tensor) -> Tensor:  # smooth, so that differences are of use
        made.activation = "tanh"
        return made(x)

    assert torch.autograd.gradcheck(tanh_of, (x,))


def test_a_critic_with_it_is_saved_with_its_statistics_and_read_for_use(tmp_path: object) -> None:
    spec = CriticSpec((3,), "box", 2, low=(-1.0,) * 2, high=(1.0,) * 2, hidden=(8,), ensemble=2, batch_norm=True)
    critic = Critic(spec, generator())
    with torch.no_grad():
        critic.net.weights[-1].normal_(generator=generator(3))
    obs, action = torch.randn(50, 3, generator=generator(1)) * 3 + 1, torch.zeros(50, 2)
    in_training = critic(obs, action)
    critic.save(f"{tmp_path}/c")
    loaded = Critic.load(f"{tmp_path}/c")
    assert not loaded.training and loaded.spec.batch_norm
    torch.testing.assert_close(loaded(obs, action), critic.eval()(obs, action))
    assert (loaded(obs, action) - in_training).abs().max() > 0.1  # other statistics than the batch's own


def test_dropout_beside_it_is_refused() -> None:
    with pytest.raises(UserError, match="batch_norm"):
        Critic(CriticSpec((3,), "none", dropout=0.1, batch_norm=True))
    with pytest.raises(UserError, match="batch_norm"):
        Critic(CriticSpec((3,), "none", layer_norm=True, batch_norm=True))
