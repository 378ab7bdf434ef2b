"""Reversible methods by samples, and StepBack: gradients from ends and times of steps alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.adjoints.lane_stepback import SteppedBackLanes

from ..adjoints.test_adjoint_memory import SIZE, STATE, peak_states_of
from .lane_cases import ADJOINTS, BATCH, Net, chosen, gradients, inputs, off, solved

METHODS = [ic.Reversible("bosh3"), ic.Reversible("tsit5", 0.95), ic.Reversible("dop853")]
EVERY = pytest.mark.parametrize("method", METHODS, ids=repr)
EXACT: dict[str, Any] = {**ADJOINTS, "stepback": ic.StepBack()}
WEIGHTS = torch.cos(torch.arange(2.0 * BATCH, dtype=torch.float64)).view(BATCH, 2)
CONSTANT: dict[str, Any] = {"controller": ic.Constant(), "dt0": 0.11}


def tolerance(method: Any) -> dict[str, Any]:
    """Such that a dozen steps or more are taken, and some rejected."""
    tol = 8.0 ** -float(method.error_order)
    return {"rtol": tol, "atol": tol, "dt0": 0.7}


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def ragged(method: Any, adjoint: Any, **options: Any) -> tuple[dict[str, Tensor], ic.Solution]:
    """Gradients of a loss on starts, output times of each sample, ends and dense output."""
    field, given = net(), inputs()
    parts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    with torch.no_grad():
        t0, t1 = given["t0"].unsqueeze(1), given["t1"].unsqueeze(1)
        ts = t0 + (t1 - t0) * parts
        ts[:, 2] = given["t1"]
    ts.requires_grad_()
    lengths = torch.tensor([3, 0, 1, 2, 3, 2])
    save = ic.SaveAt(t0=True, ts=ts, lengths=lengths, t1=True, dense=True)
    found = solved(field, given, save=save, adjoint=adjoint, solver=method, **options)
    middle = found(ic.PerSample(0.3 * given["t0"].detach() + 0.7 * given["t1"].detach()))
    ramp = torch.arange(found.ys.numel(), dtype=torch.float64).view_as(found.ys)
    loss = (torch.cos(1.3 * ramp) * found.ys.sin()).sum() + (WEIGHTS * middle).sum()
    wanted = {**given, "ts": ts, **dict(field.named_parameters())}
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True)), found


@EVERY
@pytest.mark.parametrize("adjoint", EXACT)
def test_gradients_are_those_of_the_recorded_operations(method: Any, adjoint: str) -> None:
    """To times too, of all kinds of output at once, over rejected steps."""
    expected, solution = ragged(method, ic.Direct(), **tolerance(method))
    assert int(solution.stats.samples.steps_rejected.max()) > 0
    assert len(set(solution.stats.samples.steps_accepted.tolist())) > 1
    found, _ = ragged(method, EXACT[adjoint], **tolerance(method))
    for name, gradient in expected.items():
        assert off(found[name], gradient) < (1e-10 if adjoint == "stepback" else 1e-13), name


@pytest.mark.parametrize("adjoint", ["direct", "slots1", "stepback"])
@pytest.mark.parametrize("base", ["euler", "rk4"])
def test_methods_without_an_error_estimate_over_steps_of_one_length(
    base: str, adjoint: str
) -> None:
    method = ic.Reversible(base, 0.97)
    expected, _ = ragged(method, ic.Direct(), **CONSTANT)
    found, _ = ragged(method, EXACT[adjoint], **CONSTANT)
    for name, gradient in expected.items():
        assert off(found[name], gradient) < 1e-10, name


@EVERY
def test_a_sample_goes_as_joint_stepping_takes_it(method: Any) -> None:
    """On the same steps: the two steppers are one method, with one interpolant."""
    field, given = net(), inputs()
    save = ic.SaveAt(ts=[0.25, 0.8], t1=True)
    for sample in range(BATCH):
        own = {**chosen(given, [sample]), "t0": torch.zeros(1), "t1": torch.ones(1)}
        options = {"solver": method, "save": save, **CONSTANT}
        among = solved(field, own, **options).ys
        joint = ic.solve(field, own["y0"], 0.0, 1.0, args=(own["mu"],), **options).ys
        assert off(among, joint) < 1e-14


@EVERY
def test_gradients_are_differences_of_the_discrete_solve(method: Any) -> None:
    field, given, eps = net(), inputs(), 1e-6
    options = {"solver": method, "adjoint": ic.StepBack(), **CONSTANT}
    _, found = gradients(field, given, WEIGHTS, **options)
    for name in ("y0", "mu"):
        shift = torch.cos(torch.arange(given[name].numel()).double()).view_as(given[name])
        ends = []
        for sign in (1.0, -1.0):
            moved = {**given, name: given[name].detach() + sign * eps * shift}
            with torch.no_grad():
                ends.append((WEIGHTS * solved(field, moved, **options).ys[-1].sin()).sum())
        slope = float(ends[0] - ends[1]) / (2 * eps)
        assert float((found[name] * shift).sum()) == pytest.approx(slope, rel=1e-7)


@EVERY
@pytest.mark.parametrize("adjoint", ["direct", "checkpointed", "slots3", "stepback"])
def test_answers_and_gradients_are_the_same_in_every_company(method: Any, adjoint: str) -> None:
    field, every = net(), inputs()
    options = {"solver": method, "adjoint": EXACT[adjoint], **tolerance(method)}
    end, among = gradients(field, every, WEIGHTS, **options)
    totals = {name: torch.zeros_like(p) for name, p in field.named_parameters()}
    for company in ([0], [5, 4, 1, 3, 2]):
        part, found = gradients(field, chosen(every, company), WEIGHTS[company], **options)
        assert off(part, end[company]) < 1e-13
        for name in every:
            assert off(found[name], among[name][company]) < 1e-13, name
        for name in totals:
            totals[name] += found[name]
    for name, total in totals.items():
        assert off(total, among[name]) < 1e-13, name


def driven(t: Tensor, y: Tensor) -> Tensor:
    """No operation mixes rows, so that bits can be compared."""
    return torch.cos(3 * t).unsqueeze(1) * y.flip(1) - 0.2 * y


@EVERY
def test_answers_are_the_same_bits_in_every_company(method: Any) -> None:
    given = inputs()
    ends = {"t0": given["t0"].detach(), "t1": given["t1"].detach()}
    y0, save = given["y0"].detach(), ic.SaveAt(steps=True)
    options = {"stepping": "per_sample", "solver": method, "save": save, **tolerance(method)}
    among = ic.solve(driven, y0, ends["t0"], ends["t1"], **options)
    for company in ([0], [5, 0], [3, 1, 2], [2, 2, 0, 2]):
        found = ic.solve(driven, y0[company], *(end[company] for end in ends.values()), **options)
        for place, sample in enumerate(company):
            count = int(among.lengths[sample])
            assert int(found.lengths[place]) == count
            assert torch.equal(found.ys[:count, place], among.ys[:count, sample])


@pytest.mark.parametrize("adjoint", ["checkpointed", "no_graphs", "stepback"])
def test_second_derivatives_are_those_of_the_recorded_operations(adjoint: str) -> None:
    def penalty(adjoint: Any) -> list[Tensor]:
        field, given = net(), inputs(3)
        options = {"adjoint": adjoint, "solver": METHODS[0], "rtol": 1e-3, "atol": 1e-3}
        wanted = [*given.values(), *field.parameters()]
        end = solved(field, given, **options).ys[-1]
        first = torch.autograd.grad(end.sin().sum(), wanted, create_graph=True)
        total = sum((gradient.square().sum() for gradient in first), torch.zeros(()).double())
        return list(torch.autograd.grad(total, wanted))

    for found, expected in zip(penalty(EXACT[adjoint]), penalty(ic.Direct()), strict=True):
        assert off(found, expected) < 1e-12


@pytest.mark.parametrize("adjoint", EXACT)
def test_samples_that_fail_leave_the_others_gradients_alone(adjoint: str) -> None:
    """One is no number from the start, one blows up on the way, one is there from the start."""
    bad = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0], dtype=torch.float64)
    t1 = torch.tensor([1.0, 1.0, 0.0, 3.0, 1.7], dtype=torch.float64)

    def field(t: Tensor, y: Tensor, bad: Tensor) -> Tensor:
        bad = bad.unsqueeze(1)
        slope = torch.cos(2 * t).unsqueeze(1) * y
        return torch.where(bad == 1, torch.nan, torch.where(bad == 2, y * y, slope))

    def gradient(rows: list[int]) -> tuple[Tensor, ic.Solution]:
        start = torch.linspace(0.5, 1.5, 10, dtype=torch.float64).view(5, 2)[rows].requires_grad_()
        found = ic.solve(
            field, start, 0.0, t1[rows], args=(ic.PerSample(bad[rows]),), stepping="per_sample",
            solver=ic.Reversible("bosh3", 0.9), adjoint=EXACT[adjoint], throw=False, max_steps=60,
            rtol=1e-3, atol=1e-3,
        )  # fmt: skip
        return torch.autograd.grad(found.ys.square().sum(), start)[0], found

    among, solution = gradient([0, 1, 2, 3, 4])
    assert solution.failed_samples == (1, 3)
    assert int(solution.stats.samples.steps_accepted[3]) > 5
    expected, _ = gradient([0, 2, 4])
    assert torch.allclose(among[[0, 2, 4]], expected, rtol=1e-12, atol=0)
    assert bool((among[[1, 3]] == 0).all())


def test_what_a_failed_sample_gave_before_is_pulled_back_from_its_last_accepted_step() -> None:
    """Its last try, which was rejected while the other sample went on, ended somewhere else."""
    t1, rough = torch.tensor([4.0, 1.0]), torch.tensor([0.0, 1.0], dtype=torch.float64)

    def field(t: Tensor, y: Tensor, rough: Tensor) -> Tensor:
        late = (t > 0.5) & (rough > 0)
        return torch.where(late.unsqueeze(1), 1e4 * torch.sin(1e5 * t).unsqueeze(1), y.cos())

    def gradient(adjoint: Any) -> Tensor:
        start = torch.tensor([[0.3], [0.4]], dtype=torch.float64, requires_grad=True)
        found = ic.solve(
            field, start, 0.0, t1, args=(ic.PerSample(rough),), stepping="per_sample",
            solver=ic.Reversible("bosh3", 0.95), adjoint=adjoint, throw=False, rtol=1e-4, atol=1e-4,
            controller=ic.PID(min_step=0.01, max_step=0.1), save=ic.SaveAt(ts=[0.2, 0.4, 1.0]),
        )  # fmt: skip
        assert found.failed_samples == (1,)
        assert found.lengths.tolist() == [3, 2]
        return torch.autograd.grad(found.ys.square().sum(), start)[0]

    assert off(gradient(ic.StepBack()), gradient(ic.Direct())) < 1e-10


def test_the_way_back_ends_at_the_exact_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the flow contracts it would come back near it only."""
    yielded: list[Tensor] = []
    before = SteppedBackLanes.backwards

    def backwards(self: SteppedBackLanes, *given: Any) -> Any:
        for carried in before(self, *given):
            yielded.append(carried)
            yield carried

    monkeypatch.setattr(SteppedBackLanes, "backwards", backwards)
    start = torch.tensor([[0.3], [0.4]], dtype=torch.float64, requires_grad=True)
    found = ic.solve(
        lambda t, y: -3 * y, start, 0.0, 2.0, stepping="per_sample", adjoint=ic.StepBack(),
        solver=ic.Reversible("bosh3", 0.95), rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    found.ys.sum().backward()
    assert torch.equal(yielded[-1], torch.cat([start, start], 1))


@pytest.mark.parametrize("adjoint", ["direct", "checkpointed", "slots1", "stepback"])
def test_events_are_passed_with_a_fresh_second_state(adjoint: str) -> None:
    """A rotation whose passages through zero, and what a handler makes of them, are known."""
    speed = torch.tensor([1.0, 1.5, 2.5], dtype=torch.float64, requires_grad=True)
    event = ic.Event(lambda t, y, s: y[:, 0], handler=lambda t, y, s: 0.5 * y, direction=-1)
    found = ic.solve(
        lambda t, y, s: s.unsqueeze(1) * torch.stack([y[:, 1], -y[:, 0]], 1),
        torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(3, 1), 0.0, 3.0,
        args=(ic.PerSample(speed),), event=event, solver=ic.Reversible("dop853"), rtol=1e-9,
        atol=1e-9, adjoint=EXACT[adjoint], stepping="per_sample",
    )  # fmt: skip
    values = speed.detach()
    assert off(found.sample_events.t[:2], torch.pi / 2 / values[:2]) < 1e-7
    turns = 3 * values
    falls = 1 + (turns > 2.5 * torch.pi).double()
    exact = 0.5 ** falls.unsqueeze(1) * torch.stack([turns.cos(), -turns.sin()], 1)
    assert off(found.ys[-1], exact) < 1e-6
    (of_times,) = torch.autograd.grad(found.sample_events.t[:2].sum(), speed, retain_graph=True)
    assert off(of_times[:2], -torch.pi / 2 / values[:2] ** 2) < 1e-6
    (of_ends,) = torch.autograd.grad(found.ys[-1, :, 0].sum(), speed)
    assert off(of_ends, -3 * 0.5**falls * turns.sin()) < 1e-5


# --- what it costs ----------------------------------------------------------------------------


def peak(adjoint: Any, steps: int) -> float:
    """Most bytes at once during a solve of two samples and its backward pass, in states."""
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, SIZE // 2, dtype=torch.float64)
    ends = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def both() -> None:
        ic.solve(
            lambda t, y: (rate * y).cos(), y0, 0.0, ends, solver=ic.Reversible("rk4"),
            dt0=1 / steps, adjoint=adjoint, stepping="per_sample",
        ).ys.sum().backward()  # fmt: skip

    assert y0.numel() * 8 == STATE
    return peak_states_of(both)


def test_memory_does_not_grow_with_the_steps() -> None:
    few, many = (peak(ic.StepBack(), steps) for steps in (8, 40))
    assert many <= few + 0.5
    few, many = (peak(ic.Checkpointed(graph_budget=0), steps) for steps in (8, 40))
    assert many > few + 30  # guards the measurement itself


@pytest.mark.parametrize("copies", [1, 30])
def test_each_round_is_taken_back_once_and_again_once(copies: int) -> None:
    """Whatever the number of samples: two steps of the base method each time."""
    y0 = torch.linspace(0.1, 1.0, 2 * copies, dtype=torch.float64).view(copies, 2)
    y0.requires_grad_()
    found = ic.solve(
        lambda t, y: -y.flip(1), y0, 0.0, 1.0, solver=ic.Reversible("rk4"), dt0=0.1,
        adjoint=ic.StepBack(), stepping="per_sample",
    )  # fmt: skip
    found.ys.sum().backward()
    assert found.stats.nfe_backward == 10 * 2 * (4 + 4)


# --- what it says -----------------------------------------------------------------------------


def contracted(span: Any, adjoint: Any, signs: float = 1.0) -> Tensor:
    """Gradient in the rate at which everything tends to 1."""
    k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[2.0, 0.3], [1.5, 0.9]], dtype=torch.float64)
    t1 = torch.as_tensor(span, dtype=torch.float64)
    sol = ic.solve(
        lambda t, y: signs * k * (1 - y + (1 - y).sin()), y0, 0.0, signs * t1,
        solver=ic.Reversible("heun"), controller=ic.Constant(), dt0=0.1, adjoint=adjoint,
        stepping="per_sample",
    )  # fmt: skip
    return torch.autograd.grad(sol.ys.sum(), k)[0]


@pytest.mark.parametrize("signs", [1.0, -1.0])
def test_a_sample_that_contracts_too_much_is_named(signs: float) -> None:
    """Rounding of 1e-16 grows by exp(30) = 1e13 on the way back of the second sample."""
    with pytest.warns(ic.GradientWarning, match="in sample 1, 300 steps back") as told:
        contracted([2.0, 30.0], ic.StepBack(), signs)
    said = re.search(
        r"at t0 = 0 by (\S+) times the tolerance of the solve, or (\S+) of", str(told[0].message)
    )
    assert said is not None
    times, part = map(float, said.groups())
    assert times > 1
    assert times == pytest.approx(part / 1.1e-5, rel=0.9)


def test_samples_that_contract_a_little_are_not() -> None:
    """Warnings are errors here."""
    found, want = (contracted([4.0, 3.0], adjoint) for adjoint in (ic.StepBack(), ic.Direct()))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_another_method_is_refused_before_it_solves(method: str) -> None:
    calls: list[Tensor] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls.append(t)
        return -y

    y0 = torch.ones(2, 1, requires_grad=True)
    options = {"stepping": "per_sample", "dt0": 0.1, "solver": method}
    with pytest.raises(ic.GradientError, match=r"cannot be taken back.*Reversible\("):
        ic.solve(field, y0, 0.0, 1.0, adjoint=ic.StepBack(), **options)
    assert not calls


@pytest.mark.parametrize("method", [ic.ALF(), ic.Leapfrog(), ic.KahanLi8()], ids=repr)
def test_other_methods_that_can_go_back_are_refused_with_one_that_steps_by_samples(
    method: Any,
) -> None:
    y0 = torch.ones(2, 1, requires_grad=True)
    options: dict[str, Any] = {"stepping": "per_sample", "adjoint": ic.StepBack(), "dt0": 0.1}
    told = rf"{method.name} with.*Reversible over one.*under StepBack, take `Reversible\("
    with pytest.raises(ic.InputError, match=told):
        ic.solve(driven, y0, 0.0, 1.0, solver=method, **options)


def test_backsolve_takes_a_method_of_its_own_after_a_reversible_one() -> None:
    field, given = net(), inputs()
    options = {"solver": ic.Reversible("dop853"), "rtol": 1e-9, "atol": 1e-9}
    with pytest.raises(ic.InputError, match=r"Backsolve\.solver"):
        gradients(field, given, WEIGHTS, adjoint=ic.Backsolve(), **options)
    _, expected = gradients(field, given, WEIGHTS, adjoint=ic.StepBack(), **options)
    own = ic.Backsolve(solver="dop853", checkpoints=2)
    _, found = gradients(field, given, WEIGHTS, adjoint=own, **options)
    for name, gradient in expected.items():
        assert off(found[name], gradient) < 1e-6, name
