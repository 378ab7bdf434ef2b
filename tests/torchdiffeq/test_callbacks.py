"""Callbacks: methods of `func` that are called around steps, forward and backward."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isocline.torchdiffeq import SOLVERS, odeint, odeint_adjoint

ADAPTIVE = [name for name, method in SOLVERS.items() if method.adaptive]
FIXED = [name for name in SOLVERS if name not in [*ADAPTIVE, "scipy_solver"]]
NAMES = ("callback_step", "callback_accept_step", "callback_reject_step")


class Net(nn.Module):
    """A field with whatever callbacks it is told to have; it notes their calls."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2).double()
        self.calls: dict[str, list[tuple[Tensor, Any, Tensor]]] = {name: [] for name in names}
        for name in names:
            setattr(self, name, self.noting(name))

    def noting(self, name: str) -> Any:
        return lambda t0, y0, dt: self.calls[name].append((t0, y0, dt))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.net(y)) * torch.cos(20 * t)

    def count(self, name: str) -> int:
        return len(self.calls[name])


def span(way: int = 1) -> Tensor:
    return torch.tensor([0.0, 1.0] if way > 0 else [1.0, 0.0], dtype=torch.float64)


Y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("way", [1, -1], ids=["rising", "falling"])
def test_every_step_is_announced_and_judged(method: str, way: int) -> None:
    func = Net(*NAMES)
    loose = {"rtol": 1e-4, "atol": 1e-4, "options": {"first_step": 1.0}}
    with torch.no_grad():
        end = odeint(func, Y0, span(way), method=method, **loose)[1]
    step, accept, reject = (func.calls[name] for name in NAMES)
    assert len(step) == len(accept) + len(reject)
    assert len(reject) >= 1  # the first step is too long
    at = span(way)[0].item()
    for t0, y0, dt in accept:
        assert t0.item() == pytest.approx(at)
        assert dt > 0
        assert t0.shape == dt.shape == ()
        assert t0.dtype == torch.float64
        assert y0.shape == (2,)
        at += way * dt.item()
    assert at == pytest.approx(span(way)[1].item())
    assert torch.equal(accept[0][1], Y0)
    assert not torch.equal(accept[-1][1], end)


@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_are_announced_forward_and_backward(method: str) -> None:
    func = Net("callback_step", "callback_step_adjoint")
    y0 = Y0.clone().requires_grad_()
    options = {"step_size": 0.1}
    found = odeint_adjoint(func, y0, span(), method=method, options=options)
    assert func.count("callback_step") == 10
    assert func.count("callback_step_adjoint") == 0
    found.sum().backward()
    assert func.count("callback_step") == 10
    assert func.count("callback_step_adjoint") == 10
    t0, state, dt = func.calls["callback_step_adjoint"][0]
    assert t0.item() == pytest.approx(1.0)
    assert dt.item() == pytest.approx(0.1)
    # The adjoint of the time, the state, its adjoint, the parameters' adjoint.
    assert [tuple(part.shape) for part in state] == [(), (2,), (2,), (6,)]
    torch.testing.assert_close(state[1], found[1].detach())
    assert state[2].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_adaptive_steps_of_the_backward_pass(method: str) -> None:
    func = Net(*NAMES, *(name + "_adjoint" for name in NAMES))
    found = odeint_adjoint(func, Y0, span(), method=method, rtol=1e-5, atol=1e-5)
    forward = [func.count(name) for name in NAMES]
    found.sum().backward()
    assert [func.count(name) for name in NAMES] == forward
    step, accept, reject = (func.count(name + "_adjoint") for name in NAMES)
    assert step == accept + reject > 0


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_exact_gradient_calls_no_callback(method: str) -> None:
    func = Net("callback_step")
    options = {} if method == "dopri5" else {"step_size": 0.1}
    found = odeint(func, Y0, span(), method=method, options=options)
    count = func.count("callback_step")
    found.sum().backward()
    assert func.count("callback_step") == count


def test_a_tuple_state_arrives_as_a_tuple() -> None:
    seen = []

    class Pair:
        def __call__(self, t: Tensor, y: Any) -> Any:
            return -y[0], -y[1]

        def callback_step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
            seen.append(y0)

    odeint(Pair(), (Y0, Y0[:1]), span(), method="rk4")
    assert isinstance(seen[0], tuple)
    assert [leaf.shape for leaf in seen[0]] == [(2,), (1,)]


@pytest.mark.parametrize("method", [*FIXED, "scipy_solver"])
def test_callbacks_that_are_not_served_are_warned_of(method: str) -> None:
    for name in NAMES[1:] if method in FIXED else NAMES:
        func = Net(name)
        with pytest.warns(UserWarning, match=rf"Solver '{method}' .*callbacks.*{name}") as caught:
            odeint(func, Y0, span(), method=method)
        assert caught[0].filename == __file__
        assert func.count(name) == 0
