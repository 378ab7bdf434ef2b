"""ODEBlock as a layer: values, gradients, statistics, copies, augmentation, autocast."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.errors import InputError, IsoclineError
from isocline.nn import Augment, MLPField, ODEBlock


class Decay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * y


def test_value_and_gradient_of_exponential_decay() -> None:
    block = ODEBlock(Decay(), t1=2.0, rtol=1e-8, atol=1e-8)
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64, requires_grad=True)
    y = block(x)
    y.sum().backward()
    factor = math.exp(-1.0)
    torch.testing.assert_close(y.detach(), factor * x.detach(), rtol=1e-7, atol=0)
    torch.testing.assert_close(x.grad, torch.full_like(x, factor), rtol=1e-7, atol=0)
    assert float(block.field.rate.grad) == pytest.approx(-2 * factor * 4, rel=1e-6)


def test_counts_evaluations_forward_and_backward() -> None:
    block = ODEBlock(MLPField(2, 8), adjoint=ic.Checkpointed(slots=1))
    assert (block.nfe, block.nfe_forward, block.nfe_backward, block.stats) == (0, 0, 0, None)
    y = block(torch.randn(4, 2))
    assert block.nfe_forward > 0
    assert block.nfe_backward == 0
    y.sum().backward()
    assert block.nfe_backward > 0
    assert block.nfe == block.nfe_forward + block.nfe_backward
    with torch.no_grad():
        block(torch.randn(4, 2))
    assert block.nfe_backward == 0


def test_settings_may_change_after_training() -> None:
    torch.manual_seed(0)
    block = ODEBlock(MLPField(2, 16))
    x = 3 * torch.randn(4, 2)
    block(x)
    loose = block.nfe_forward
    block.rtol = block.atol = 1e-7
    block(x)
    assert block.nfe_forward > loose
    block.solver, block.dt0 = "rk4", 0.25
    block(x)
    assert 16 <= block.nfe_forward <= 18


@pytest.mark.parametrize("adjoint", [ic.Direct(), ic.Checkpointed(slots=1), ic.Backsolve()])
def test_adjoints_agree(adjoint: object) -> None:
    torch.manual_seed(0)
    block = ODEBlock(MLPField(2, 8), rtol=1e-6, atol=1e-6).double()
    x = torch.randn(4, 2, dtype=torch.float64)
    gradients = []
    for choice in (None, adjoint):
        block.adjoint = choice
        block.zero_grad()
        block(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in block.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_copies_and_pickles_without_statistics() -> None:
    block = ODEBlock(MLPField(2, 8))
    x = torch.randn(4, 2)
    expected = block(x)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert other.stats is None
        assert torch.equal(other(x), expected)
    assert block.nfe_forward > 0


def test_state_dict_holds_the_field_alone() -> None:
    block = ODEBlock(MLPField(2, 8))
    assert all(key.startswith("field.") for key in block.state_dict())


@pytest.mark.parametrize("shape", [(4, 2), (4, 2, 5, 5)])
def test_augment_appends_zero_channels_and_keeps_them(shape: tuple[int, ...]) -> None:
    seen: list[Tensor] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(y.detach().clone())
        return torch.ones_like(y)

    x = torch.randn(shape)
    y = ODEBlock(field, augment=Augment(3))(x)
    assert y.shape == (shape[0], shape[1] + 3, *shape[2:])
    assert torch.equal(seen[0][:, 2:], torch.zeros_like(seen[0][:, 2:]))
    torch.testing.assert_close(y[:, 2:], torch.ones_like(y[:, 2:]))


def test_augment_checks_its_input() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Augment(0)
    with pytest.raises(InputError, match="channel axis"):
        ODEBlock(MLPField(2), augment=Augment(1))(torch.zeros(3))


def test_a_failed_solve_raises() -> None:
    block = ODEBlock(lambda t, y: y * y, t1=2.0, max_steps=50)
    with pytest.raises(IsoclineError):
        block(torch.ones(1, 1))


@pytest.mark.parametrize("adjoint", [ic.Direct(), ic.Checkpointed(), ic.Checkpointed(slots=1)])
def test_autocast_keeps_the_state_in_float32_and_the_gradients_whole(adjoint: object) -> None:
    torch.manual_seed(0)
    # Equal steps, so that rounding changes no step size.
    block = ODEBlock(MLPField(3, 16), adjoint=adjoint, solver="rk4", dt0=0.25)
    x = torch.randn(8, 3)
    exact = torch.autograd.grad(block(x).square().sum(), list(block.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(x)
        loss = y.square().sum()
    assert y.dtype == torch.float32
    # Outside of autocast, as training loops have it.
    loss.backward()
    for parameter, wanted in zip(block.parameters(), exact, strict=True):
        assert parameter.grad is not None
        assert float((parameter.grad - wanted).norm()) < 0.05 * float(wanted.norm())


def test_repr_names_the_settings() -> None:
    assert "t1=1.0, solver='tsit5', rtol=0.001" in repr(ODEBlock(MLPField(2)))
