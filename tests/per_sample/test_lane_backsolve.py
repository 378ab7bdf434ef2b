"""Backsolve by samples: right and ever more so, wherever outputs fall, and honest where it drifts.

That a sample's gradient does not depend on its batch is tested with that of all adjoints, in
`test_independence`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import isocline as ic
from isocline.adjoints.lane_states import LaneStates
from isocline.integrate import integrate_samples
from isocline.samples import SampleField, SamplePlan, SampleProblem
from isocline.state import Packing

from .lane_cases import (
    BATCH,
    CONTINUOUS,
    Net,
    chosen,
    inputs,
    off,
    oscillator,
    solved,
)
from .test_lane_gradients import all_gradients

EVERY = pytest.mark.parametrize("name", CONTINUOUS)


def double(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


# --- right, and ever more so -------------------------------------------------------------------


@functools.cache
def all_exactly() -> dict[str, Tensor]:
    return all_gradients(net(), ic.Direct(), solver="vern8", rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", ["tsit5", "dopri5", "vern7"])
@EVERY
def test_the_error_falls_with_the_tolerance(name: str, method: str) -> None:
    """To start, times, arguments and weights alike, with outputs on the way."""

    exact = all_exactly()
    exponents = torch.tensor([3.0, 5.0, 7.0, 9.0], dtype=torch.float64)
    found = [
        all_gradients(net(), CONTINUOUS[name], solver=method, rtol=tol, atol=tol)
        for tol in (10.0**-exponents).tolist()
    ]
    errors = [
        math.hypot(*(float((at[name] - gradient).norm()) for name, gradient in exact.items()))
        for at in found
    ]
    rise = -torch.tensor(errors, dtype=torch.float64).log10()
    centred = exponents - exponents.mean()
    assert float(centred @ rise / centred.square().sum()) >= 0.8
    assert errors[-1] < 1e-7


@EVERY
def test_linear_systems_to_ten_digits(name: str) -> None:
    """Against the matrix exponential; two of the samples go backward in time."""
    generator = torch.Generator().manual_seed(1)
    given = {
        "y0": torch.randn(4, 3, generator=generator, dtype=torch.float64),
        "A": 0.6 * torch.randn(3, 3, generator=generator, dtype=torch.float64),
        "t0": torch.tensor([0.0, 0.2, 1.0, 2.0], dtype=torch.float64),
        "t1": torch.tensor([1.5, 0.5, -0.3, 0.1], dtype=torch.float64),
    }
    parts = torch.tensor([0.0, 0.1, 0.55, 0.8, 1.0], dtype=torch.float64)
    ts = given["t0"].unsqueeze(1) + (given["t1"] - given["t0"]).unsqueeze(1) * parts
    ts[:, -1] = given["t1"]
    given = {key: value.requires_grad_() for key, value in {**given, "ts": ts}.items()}

    def gradients(rows: Tensor) -> list[Tensor]:
        weights = torch.cos(torch.arange(rows.numel()).double()).view(rows.shape)
        return list(torch.autograd.grad((weights * rows).sum(), list(given.values())))

    when = torch.cat([given["ts"].t(), given["t1"].unsqueeze(0)])
    spans = (when - given["t0"]).unsqueeze(-1).unsqueeze(-1)
    exact = torch.linalg.matrix_exp(given["A"] * spans) @ given["y0"].unsqueeze(-1)
    ys = ic.solve(
        lambda t, y: y @ given["A"].t(), given["y0"], given["t0"], given["t1"],
        save=ic.SaveAt(ts=given["ts"], t1=True), adjoint=CONTINUOUS[name], stepping="per_sample",
        solver="vern9", rtol=1e-13, atol=1e-14,
    ).ys  # fmt: skip
    for key, found, want in zip(given, gradients(ys), gradients(exact.squeeze(-1)), strict=True):
        assert off(found, want) < 1e-10, key


def test_one_sample_alone_gets_what_joint_stepping_gives_it() -> None:
    """Steps of one length are the same steps: parameters by quadrature are those of the paper's
    augmented state, and what outputs within steps are worth is what one sweep finds."""
    field = net()
    given = chosen(inputs(), [2])
    ts = given["t0"].detach() + torch.tensor([0.13, 0.3, 0.31, 0.6]).double()
    found = []
    for stepping in ("joint", "per_sample"):
        ends = [given["t0"][0], given["t1"][0]]
        ys = ic.solve(
            field, given["y0"], *ends, args=(ic.PerSample(given["mu"]),), stepping=stepping,
            save=ic.SaveAt(ts=ts, t1=True), adjoint=ic.Backsolve(seminorm=True), dt0=0.11,
            controller=ic.Constant(),
        ).ys  # fmt: skip
        found.append(torch.autograd.grad(ys.sin().sum(), [*given.values(), *field.parameters()]))
    for own, joint in zip(found[1], found[0], strict=True):
        assert off(own, joint) < 1e-12


# --- where outputs fall, and which are used ----------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "reverse"])
@EVERY
def test_outputs_wherever_they_fall(name: str, sign: float) -> None:
    """Twice at one time, at both ends, at ends of reverse steps, a hair beside them; some unused.

    Samples have different ones of them. The loss falls on some rows; the rest are known states.
    """
    inside = [0.3, 0.3, 0.6, math.nextafter(0.6, 1), 0.8, 0.8, 1.0]
    rows = [[0.0, *inside, 1.2], inside, [0.0, 0.0], [1.2], [0.0, 0.6, 1.2, 1.2]]
    ts = [sign * torch.tensor(row, dtype=torch.float64) for row in rows]

    def found(adjoint: Any) -> list[Tensor]:
        y0 = double(*[[0.8 + 0.1 * i, -0.3] for i in range(len(rows))])
        w = double(0.7, 1.1)
        solution = ic.solve(
            lambda t, y: (w * y.flip(1)).sin() - t.unsqueeze(1) * y, y0, 0.0, sign * 1.2,
            solver="dop853", rtol=1e-11, atol=1e-11, stepping="per_sample", adjoint=adjoint,
            save=ic.SaveAt(t0=True, ts=ts, t1=True),
            controller=ic.PID(stops=(sign * 0.3, sign * 0.6)),
        )  # fmt: skip
        weights = torch.cos(torch.arange(solution.ys.numel()).double()).view_as(solution.ys)
        weights[1::3] = 0
        weights[:, 3] = 0
        return list(torch.autograd.grad((weights * solution.ys.sin()).sum(), [y0, w]))

    own, exact = found(CONTINUOUS[name]), found(ic.Direct())
    for one, other in zip(own, exact, strict=True):
        assert off(one, other) < 1e-8
    assert bool((own[0][3] == 0).all())  # the sample whose rows no loss depends on


@pytest.mark.parametrize("kept", ["times", "steps"])
def test_outputs_do_not_shorten_reverse_steps(kept: str) -> None:
    """A hundred of them cost less than three times what one does, and would stop it as often."""
    counts = []
    for many in (False, True):
        given = inputs()
        start, span = given["t0"].detach(), (given["t1"] - given["t0"]).detach()
        ts = (start + torch.linspace(0.0, 0.99, 100).double().unsqueeze(1) * span).t()
        save = ic.SaveAt(ts=ts) if kept == "times" else ic.SaveAt(steps=True)
        save = save if many else ic.SaveAt(t1=True)
        solution = solved(net(), given, adjoint=ic.Backsolve(), save=save)
        solution.ys.sin().sum().backward()
        counts.append(solution.stats.nfe_backward)
    assert counts[1] < 3 * counts[0]


@settings(max_examples=6)
@given(data=st.data())
def test_any_part_of_a_batch_in_any_order_with_times_of_its_own(data: Any) -> None:
    every = inputs()
    order = data.draw(st.permutations(range(BATCH)))[: data.draw(st.integers(1, BATCH))]
    parts = data.draw(
        st.lists(st.lists(st.floats(0, 1), max_size=4).map(sorted), min_size=BATCH, max_size=BATCH)
        .filter(lambda rows: any(rows[i] for i in order))
    )  # fmt: skip
    start, span = every["t0"].detach(), (every["t1"] - every["t0"]).detach()
    rows = [
        (start[i] + span[i] * torch.tensor(row, dtype=torch.float64)).clamp(max=start[i] + span[i])
        for i, row in enumerate(parts)
    ]

    def gradients(samples: list[int]) -> dict[str, Tensor]:
        own = chosen(every, samples)
        save = ic.SaveAt(ts=[rows[i] for i in samples], t1=True)
        adjoint = ic.Backsolve(checkpoints=3)
        ys = solved(net(), own, save=save, adjoint=adjoint, rtol=1e-4, atol=1e-4).ys
        weights = torch.arange(1.0, len(ys) + 1).double().view(-1, 1, 1)
        found = torch.autograd.grad((weights * ys.sin()).sum(), list(own.values()))
        return dict(zip(own, found, strict=True))

    among, part = gradients(list(range(BATCH))), gradients(list(order))
    for key, found in part.items():
        assert off(found, among[key][order]) < 1e-13, key


# --- where it drifts ---------------------------------------------------------------------------


def cubic(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    """It contracts the more, the larger its rate, and so flies apart in reverse."""
    return -rate.unsqueeze(1) * y**3


def test_a_drift_is_told_with_its_sample() -> None:
    y0 = torch.ones(4, 2, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor([0.1, 0.2, 600.0, 0.1], dtype=torch.float64)

    def gradient(adjoint: Any) -> Tensor:
        ys = ic.solve(
            cubic, y0, 0.0, 1.0, args=(ic.PerSample(rate),), stepping="per_sample",
            adjoint=adjoint, rtol=1e-5, atol=1e-5,
        ).ys  # fmt: skip
        return torch.autograd.grad(ys.sum(), y0)[0]

    exact = (1 + 2 * rate) ** -1.5
    with pytest.warns(ic.GradientWarning, match=r"in sample 2 at t = 0 .* times its tolerance"):
        drifted = gradient(ic.Backsolve())
    put_right = gradient(ic.Backsolve(checkpoints=40))
    wrong, right = (float((g[2, 0] / exact[2] - 1).abs()) for g in (drifted, put_right))
    assert right < 0.1 * wrong
    assert off(put_right[:2, 0], exact[:2]) < 1e-3


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "reverse"])
def test_a_drift_of_constant_steps_is_told_in_parts_of_the_state(sign: float) -> None:
    """Euler's method there and back again multiplies by 1 - z^2 at each step, z = h rate.

    A drift of nearly all of a state is half of what it is measured by: it and the largest element.
    """
    y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    rate = sign * torch.tensor([10.0, 0.1, 0.1], dtype=torch.float64)
    start = torch.tensor([0.0, 0.0, 0.5])
    end = ic.solve(
        lambda t, y, rate: -rate.unsqueeze(1) * y, y0, sign * start, sign * (start + 1),
        args=(ic.PerSample(rate),), adjoint=ic.Backsolve(), stepping="per_sample",
        solver="euler", controller=ic.Constant(), dt0=0.05,
    ).ys  # fmt: skip
    with pytest.warns(ic.GradientWarning, match=r"in sample 0 at t = 0 .* 49\.8 % of its size"):
        end.sum().backward()


def test_a_known_state_at_the_very_start_of_a_reverse_step_puts_y_right() -> None:
    """Steps of a power of two end where those of the forward solve did, and none drifts twice."""
    y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor([6.0, 0.1, 3.0], dtype=torch.float64)
    ys = ic.solve(
        lambda t, y, rate: -rate.unsqueeze(1) * y, y0, 0.0, 1.0, args=(ic.PerSample(rate),),
        adjoint=ic.Backsolve(), stepping="per_sample", save=ic.SaveAt(steps=True), solver="euler",
        controller=ic.Constant(), dt0=0.125,
    ).ys  # fmt: skip
    ys[-1].sum().backward()  # without a warning
    assert off(y0.grad[:, 0], (1 - 0.125 * rate) ** 8) < 1e-12


@pytest.mark.parametrize("count", [1, 2, 5])
def test_states_are_kept_evenly_over_the_steps_of_each_sample(count: int) -> None:
    """At most so many, more than a third of them if there are steps, from a stride to the next."""
    steps = torch.tensor([1, 2, 5, 11, 16, 40])
    y0 = torch.randn(len(steps), 2, dtype=torch.float64)
    packing = Packing.of(y0)
    field = SampleField(lambda t, y: y.flip(1), packing)
    zeros = torch.zeros(len(steps), dtype=torch.float64)
    problem = SampleProblem(field, y0, zeros, 0.125 * steps.double())
    keeper = LaneStates(problem, count)
    plan = SamplePlan(
        solver=ic.Tsit5(), controller=ic.Constant(), rtol=0.0, atol=1.0, norm=torch.Tensor.norm,
        dt0=zeros + 0.125, save=ic.SaveAt(), max_steps=50,
    )  # fmt: skip
    integrate_samples(problem, plan, recorder=keeper)
    samples, clocks, states = keeper.kept()
    exact = solved_by_exp(y0[samples], clocks)
    assert off(states, exact) < 1e-6
    for sample, total in enumerate(steps.tolist()):
        numbers = (clocks[samples == sample] / 0.125).round().long()
        assert min(total, (count + 1) // 2) <= len(numbers) <= count or not len(numbers)
        assert len(numbers) or total > count == 1
        stride = int(numbers[0]) if len(numbers) else 1
        assert numbers.tolist() == [stride * (i + 1) for i in range(len(numbers))]
        assert stride & (stride - 1) == 0


def solved_by_exp(y0: Tensor, t: Tensor) -> Tensor:
    """The flow of a swap of two numbers."""
    even, odd = t.cosh().unsqueeze(1), t.sinh().unsqueeze(1)
    return even * y0 + odd * y0.flip(1)


def test_a_reverse_solve_that_stops_names_its_samples() -> None:
    """Solved once more from its end, the sample that comes down from a pole runs into it."""
    y0 = double([1.0], [1e8], [2.0])
    found = ic.solve(
        lambda t, y: -y * y, y0, 0.0, 1.0, stepping="per_sample",
        adjoint=ic.Backsolve(max_steps=30),
    )  # fmt: skip
    with pytest.raises(ic.MaxStepsError, match=r"in sample 1 at t = .* from 1 to 0") as caught:
        found.ys.sum().backward()
    assert 1 in caught.value.samples
    assert caught.value.solution is None


# --- settings ----------------------------------------------------------------------------------


def test_the_reverse_solve_has_settings_of_its_own() -> None:
    field, given = net(), inputs()
    tight: dict[str, Any] = {"solver": "vern7", "rtol": 1e-8, "atol": 1e-8}
    wanted = [given["y0"], field.inner.weight]

    def found(adjoint: Any, **options: Any) -> tuple[list[Tensor], int]:
        solution = solved(field, given, adjoint=adjoint, **(options or tight))
        gradients = torch.autograd.grad(solution.ys.sin().sum(), wanted)
        return list(gradients), solution.stats.nfe_backward

    exact, nfe = found(ic.Backsolve())
    each = ic.PerSample(torch.tensor([1e-4] + [1e-8] * (BATCH - 1)))
    kinds: dict[str, Any] = {
        "method": ic.Backsolve(solver="bosh3", rtol=1e-5, atol=1e-5),
        "tolerance": ic.Backsolve(rtol=1e-6, atol=1e-6),
        "of_each": ic.Backsolve(rtol=each, atol=each),
        "controller": ic.Backsolve(controller=ic.PI(max_step=0.1)),
        "steps": ic.Backsolve(controller=ic.Constant(), dt0=0.05),
        "norm": ic.Backsolve(
            norm=lambda y, a, p: 9 * torch.maximum(y.abs().amax(1), a.abs().amax(1))
        ),
    }
    for kind, adjoint in kinds.items():
        gradients, count = found(adjoint)
        assert off(gradients[0], exact[0]) < 3e-4, kind
        assert off(gradients[1], exact[1]) < 3e-4, kind
        if kind != "of_each":
            assert count != nfe, kind
        else:  # only the first sample's is coarse
            assert off(gradients[0][1:], exact[0][1:]) < 1e-6
            assert off(gradients[0][0], exact[0][0]) > 1e-6
    # A method without an error estimate goes back with the constant steps of the forward solve.
    rk4, _ = found(ic.Backsolve(), solver="rk4", controller=ic.Constant(), dt0=0.05)
    assert off(rk4[0], exact[0]) < 1e-3


def test_parameters_that_are_named_alone_receive_a_gradient() -> None:
    field = net()
    every = dict(field.named_parameters())
    gradients = []
    for named in (None, (field.outer.bias,)):
        field.zero_grad()
        solved(field, inputs(), adjoint=ic.Backsolve(parameters=named)).ys.sum().backward()
        gradients.append({name: p.grad for name, p in every.items()})
    assert gradients[1]["outer.bias"].equal(gradients[0]["outer.bias"])
    assert all(g is None for name, g in gradients[1].items() if name != "outer.bias")


def test_what_it_does_not_do_is_said() -> None:
    given = inputs(2)
    with pytest.raises(ic.InputError, match="explicit Runge-Kutta"):
        solved(oscillator, given, adjoint=ic.Backsolve(solver="lsoda"))
    with pytest.raises(ic.InputError, match=r"Backsolve\.solver"):
        solved(oscillator, given, adjoint=ic.Backsolve(solver="rk4"))
    with pytest.raises(ic.InputError, match=r"Backsolve\.rtol"):
        solved(oscillator, given, adjoint=ic.Backsolve(rtol=ic.PerSample(torch.ones(3))))
    found = solved(oscillator, given, adjoint=ic.Backsolve(norm=lambda y, a, p: a.norm()))
    with pytest.raises(ic.InputError, match=r"Backsolve\.norm"):
        found.ys.sum().backward()
    end = solved(oscillator, given, adjoint=ic.Backsolve()).ys[-1]
    first = torch.autograd.grad(end.sum(), given["y0"], create_graph=True)[0]
    with pytest.raises(ic.GradientError, match="cannot itself be differentiated"):
        torch.autograd.grad(first.sum(), given["y0"])
    with pytest.raises(ic.GradientError, match="one cotangent at a time"):
        torch.autograd.grad(end, given["y0"], torch.ones(2, 2, 2).double(), is_grads_batched=True)


# --- kinds of fields and states ----------------------------------------------------------------


class Flow(nn.Module):
    """The gradient flow of a potential, whose gradient autograd finds inside the field."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.7, 1.1], [0.3, -0.4]], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = y if y.requires_grad else y.detach().requires_grad_()
            (slope,) = torch.autograd.grad((x @ self.w).cos().sum(), x, create_graph=True)
        return slope


class Structured(nn.Module):
    """Of a state of two leaves of different shapes and dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.6, dtype=torch.float64))

    def forward(self, t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        z, work = state["z"], state["work"]
        turned = torch.complex(self.w, 1 + t).view(-1, 1) * z
        return {"z": 1j * turned, "work": (z.abs().square().sum(1) * self.w - work).real}


def test_a_field_that_differentiates_by_itself() -> None:
    found = []
    for adjoint in (ic.Backsolve(), ic.Direct()):
        field, y0 = Flow(), double([0.8, -0.3], [0.2, 1.0], [-2.0, 0.4])
        ts = [torch.tensor(row, dtype=torch.float64) for row in ([0.2], [0.5, 0.9], [])]
        ys = ic.solve(
            field, y0, 0.0, 1.0, save=ic.SaveAt(ts=ts, t1=True), adjoint=adjoint, solver="vern8",
            stepping="per_sample", rtol=1e-10, atol=1e-10,
        ).ys  # fmt: skip
        found.append(torch.autograd.grad(ys.square().sum(), [y0, field.w]))
    for own, exact in zip(*found, strict=True):
        assert off(own, exact) < 1e-8


def test_states_of_several_leaves_complex_ones_among_them() -> None:
    found = []
    for adjoint in (ic.Backsolve(), ic.Direct()):
        field = Structured()
        z = torch.tensor([[1 + 2j, 0.5j], [0.3 - 1j, 2.0]], dtype=torch.complex128)
        start = {"z": z.requires_grad_(), "work": double(0.1, 0.2)}
        ys = ic.solve(
            field, start, 0.0, torch.tensor([1.0, 0.6]), save=ic.SaveAt(ts=[0.2, 0.5], t1=True),
            adjoint=adjoint, solver="vern8", stepping="per_sample", rtol=1e-10, atol=1e-10,
        ).ys  # fmt: skip
        loss = ys["z"].imag.sin().sum() + ys["work"].square().sum()
        found.append(torch.autograd.grad(loss, [*start.values(), field.w]))
    for own, exact in zip(*found, strict=True):
        assert off(own, exact) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fields_that_no_state_or_no_parameter_enters(dtype: torch.dtype) -> None:
    y0 = torch.ones(3, 1, dtype=dtype, requires_grad=True)
    t1 = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    fields = {
        "time": (lambda t, y: torch.cos(t).unsqueeze(1), torch.cos(t1)),
        "plain": (lambda t, y: -y, -torch.exp(-t1)),
    }
    for name, (field, rate) in fields.items():
        ys = ic.solve(
            field, y0, 0.0, t1, stepping="per_sample", adjoint=ic.Backsolve(), rtol=1e-5, atol=1e-6
        ).ys
        g_y0, g_t1 = torch.autograd.grad(ys.sum(), [y0, t1])
        assert g_y0.dtype == dtype
        assert torch.allclose(g_t1, rate, atol=1e-4), name
        expected = torch.ones_like(t1) if name == "time" else torch.exp(-t1)
        assert torch.allclose(g_y0[:, 0].double(), expected.double(), atol=1e-4), name
