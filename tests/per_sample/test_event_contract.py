"""Events of each sample under every adjoint: one suite over all of them.

Balls over a moving floor fall both ways in time, each with its own pull, span and outputs; some of
their solves are ended by an event. Exact adjoints must say what `Direct` says of the same steps;
`Backsolve` comes to the gradient of the exact solution as its tolerance falls.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import isocline as ic

from ..adjoints.test_adjoint_memory import SIZE, STATE, peak_states_of
from .lane_cases import ADJOINTS, CONTINUOUS, off

BALLS = 4
METHODS = [ic.Reversible("bosh3", 0.95), ic.Reversible("tsit5"), ic.Reversible("dop853", 0.9)]
EXACT: dict[str, Any] = {**ADJOINTS, "stepback": ic.StepBack()}
KINDS: dict[str, Any] = {**EXACT, **CONTINUOUS}
PLACES = range(len(METHODS))


def double(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


class Balls:
    """All that a solve of some of the balls depends on; each tensor requires grad."""

    def __init__(self, samples: list[int] | None = None) -> None:
        rows = list(range(BALLS)) if samples is None else samples
        ramp = torch.linspace(0.0, 1.0, BALLS, dtype=torch.float64)
        way = torch.where(torch.arange(BALLS) % 3 == 1, -1.0, 1.0).double()
        own = {
            "height": 0.4 + 0.5 * ramp.flip(0),
            "pull": 7.0 + 5.0 * ramp,
            "t0": 0.3 * way * ramp,
            "t1": way * (0.8 + 1.2 * ramp),
        }
        self.way = way[rows]
        self.own = {name: tensor[rows].requires_grad_() for name, tensor in own.items()}
        parts = torch.tensor([0.0, 0.2, 0.5, 0.9], dtype=torch.float64)
        t0, t1 = (self.own[name].detach().unsqueeze(1) for name in ("t0", "t1"))
        self.ts = (t0 + (t1 - t0) * parts).requires_grad_()
        self.lengths = torch.tensor([4, 0, 2, 3])[rows]
        # What the field, a condition and a handler alone use, found in their closures.
        shared = {"drag": 0.1, "level": 0.3, "kept": 0.85}
        self.shared = {name: double(value) for name, value in shared.items()}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        return {**self.own, "ts": self.ts, **self.shared}

    def falling(self, t: Tensor, y: Tensor, pull: Tensor) -> Tensor:
        """The same forward and backward in time, but for a wind."""
        x, v = y.unbind(1)
        return torch.stack([v, -pull - self.shared["drag"] * torch.sin(4 * x + t)], 1)

    @property
    def events(self) -> list[ic.Event]:
        """Bounces, of which the fourth is the last; highest points, noted down; a level's fifth."""
        kept, level = self.shared["kept"], self.shared["level"]

        def floor(t: Tensor, y: Tensor, pull: Tensor) -> Tensor:
            return y[:, 0] - 0.02 * torch.sin(kept * t)

        def bounce(t: Tensor, y: Tensor, pull: Tensor) -> Tensor:
            speed = -(kept + 0.05 * torch.cos(t)) * y[:, 1]
            return torch.stack([0.02 * torch.sin(kept * t), speed], 1)

        return [
            ic.Event(floor, handler=bounce, direction=-1, terminal=4),
            ic.Event(lambda t, y, pull: y[:, 1] - 0.1 * level * pull, terminal=0),
            ic.Event(lambda t, y, pull: torch.stack([y[:, 0] - level, t + 50.0], 1), terminal=5),
        ]

    def solved(self, **options: Any) -> ic.Solution:
        """Each ball at its own pace."""
        height = self.own["height"]
        y0 = torch.stack([height, 0.1 * height * self.way], 1)
        settings = {"event": self.events, "stepping": "per_sample", **options}
        args = (ic.PerSample(self.own["pull"]),)
        return ic.solve(self.falling, y0, self.own["t0"], self.own["t1"], args=args, **settings)


def gradients(
    adjoint: Any, samples: list[int] | None = None, **options: Any
) -> tuple[dict[str, Tensor], ic.Solution]:
    """Gradients of a loss, a sum over balls, on events and on output of all kinds."""
    balls = Balls(samples)
    every = ic.SaveAt(t0=True, ts=balls.ts, lengths=balls.lengths, t1=True, dense=True)
    found = balls.solved(adjoint=adjoint, **{"save": every, **options})
    events = found.sample_events
    assert events is not None
    loss = events.t.sin().sum() + (events.y.cos() * torch.tensor([1.0, 0.1])).sum()
    rows = torch.arange(1.0, len(found.ys) + 1).double().view(-1, 1, 1)
    loss = loss + (torch.cos(rows) * found.ys.sin()).sum()
    if found.dense is not None:
        t0 = balls.own["t0"].detach()
        assert found.t_ends is not None
        middle = t0 + 0.6 * (found.t_ends.detach() - t0)
        loss = loss + found(ic.PerSample(middle)).sin().sum()
    wanted = balls.tensors
    pulled = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    return dict(zip(wanted, pulled, strict=True)), found


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference of any gradient; nothing may come to what has none."""
    differences = [0.0]
    for name, gradient in expected.items():
        if bool(gradient.any()):
            differences.append(off(found[name], gradient))
        else:
            assert not bool(found[name].any()), name
    return max(differences)


# --- exact: the gradient of the solve's own steps ----------------------------------------------


def coarse(method: Any) -> dict[str, Any]:
    """Such that steps are rejected, also first ones after events."""
    tol = 8.0 ** -float(method.error_order)
    return {"solver": method, "rtol": tol, "atol": tol, "dt0": 0.7}


@functools.cache
def recorded(place: int) -> tuple[dict[str, Tensor], ic.Solution]:
    return gradients(ic.Direct(), **coarse(METHODS[place]))


@pytest.mark.parametrize("place", PLACES)
def test_the_case_is_what_it_is_to_be(place: int) -> None:
    """Several events of a ball, of all three kinds, two of which end a solve; rejected steps."""
    _, found = recorded(place)
    events, counts = found.sample_events, found.stats.samples
    assert events is not None
    assert counts is not None
    assert set(events.events.tolist()) == {0, 1, 2}
    bounces = torch.bincount(events.samples[events.events == 0], minlength=BALLS)
    assert [status is ic.Status.EVENT for status in found.statuses] == [False, False, True, True]
    assert bounces.tolist() == [1, 1, 2, 4]  # of which the last one ends a solve
    assert int(counts.steps_rejected.sum()) > BALLS


@pytest.mark.parametrize(
    ("adjoint", "place"),
    [(name, number % len(METHODS)) for number, name in enumerate(ADJOINTS) if name != "direct"]
    + [("stepback", place) for place in PLACES],
)
def test_exact_adjoints_say_what_the_recorded_operations_say(adjoint: str, place: int) -> None:
    expected, _ = recorded(place)
    found, _ = gradients(EXACT[adjoint], **coarse(METHODS[place]))
    assert apart(found, expected) < (1e-9 if adjoint == "stepback" else 1e-11)


@pytest.mark.parametrize("save", [ic.SaveAt(steps=True), ic.SaveAt()], ids=["steps", "end"])
def test_stepping_back_with_other_output(save: Any) -> None:
    options = {**coarse(METHODS[0]), "save": save}
    expected, _ = gradients(ic.Direct(), **options)
    found, _ = gradients(ic.StepBack(), **options)
    assert apart(found, expected) < 1e-9


# --- continuous: the gradient of the exact solution --------------------------------------------


def tight(tol: float) -> dict[str, Any]:
    return {"solver": "vern7", "rtol": tol, "atol": tol}


def test_the_error_of_backsolve_falls_with_the_tolerance() -> None:
    exact = gradients(ic.Checkpointed(), **tight(1e-10))[0]
    rough, fine = (gradients(ic.Backsolve(), **tight(tol))[0] for tol in (1e-4, 1e-8))
    assert apart(rough, exact) < 0.03
    assert apart(fine, exact) < 3e-6


def test_known_states_between_events_put_the_reverse_solve_right() -> None:
    """Samples come down so hard that no way leads back but by them; events reach only so far."""

    def gradient(adjoint: Any) -> Tensor:
        start = double([[2.0], [1.5]])
        event = ic.Event(lambda t, y: y[:, 0] - 1.0, handler=lambda t, y: y + 1.0, direction=-1)
        found = ic.solve(
            lambda t, y: -1000 * (y - 0.97) ** 3, start, 0.0, 1.3, event=event, adjoint=adjoint,
            stepping="per_sample", rtol=1e-5, atol=1e-5,
        )  # fmt: skip
        assert found.sample_events is not None
        assert len(found.sample_events.t) >= 2
        return torch.autograd.grad(found.sample_events.t.sum() + found.ys.sum(), start)[0]

    exact, put_right = gradient(ic.Checkpointed()), gradient(ic.Backsolve(checkpoints=20))
    with pytest.warns(ic.GradientWarning, match=r"in sample \d at t = \S+ to a state"):
        drifted = gradient(ic.Backsolve())
    assert off(put_right, exact) < 0.05
    assert off(drifted, exact) > 0.3


# --- every adjoint -----------------------------------------------------------------------------


def method_for(adjoint: str) -> Any:
    return ic.Reversible("dop853") if adjoint == "stepback" else "dop853"


@pytest.mark.parametrize("adjoint", ["slots3", "stepback", "backsolve"])
def test_gradients_are_the_same_in_every_company(adjoint: str) -> None:
    options = {"solver": method_for(adjoint), "rtol": 1e-5, "atol": 1e-5}
    among, _ = gradients(KINDS[adjoint], **options)
    companies = [[0], [3, 1, 2]]
    found = [gradients(KINDS[adjoint], company, **options)[0] for company in companies]
    for company, own in zip(companies, found, strict=True):
        for name in ("height", "pull", "t0", "t1"):
            assert off(own[name], among[name][company]) < 1e-11, name
    for name in ("drag", "level", "kept"):
        assert off(found[0][name] + found[1][name], among[name]) < 1e-11, name


@pytest.mark.parametrize("adjoint", KINDS)
def test_many_balls_and_their_last_bounces_in_closed_form(adjoint: str) -> None:
    """From height h the n-th bounce is at sqrt(2 h / g) (1 + 2 (c + ... + c^(n-1)))."""
    heights = torch.linspace(0.6, 5.0, 60, dtype=torch.float64).requires_grad_()
    kept, pull = double(0.8), double(9.81)
    event = ic.Event(
        lambda t, y: y[:, 0],
        handler=lambda t, y: torch.stack([0 * y[:, 0], -kept * y[:, 1]], 1),
        direction=-1,
    )
    found = ic.solve(
        lambda t, y: torch.stack([y[:, 1], -pull * torch.ones_like(y[:, 1])], 1),
        torch.stack([heights, 0 * heights], 1), 0.0, 2.0, event=event, adjoint=KINDS[adjoint],
        stepping="per_sample", solver=method_for(adjoint), rtol=1e-8, atol=1e-8,
    ).sample_events  # fmt: skip
    assert found is not None
    last = torch.ones_like(found.samples, dtype=torch.bool)
    last[:-1] = found.samples.diff() > 0
    counts = torch.bincount(found.samples, minlength=60)
    assert len(set(counts.tolist())) >= 4
    powers = kept ** torch.arange(1.0, 20.0).double()
    falls = torch.stack([1 + 2 * powers[: n - 1].sum() for n in counts.tolist()])
    exact = (2 * heights / pull).sqrt() * falls
    assert off(found.t[last], exact) < 1e-7
    weights = torch.cos(torch.arange(60.0).double())
    wanted = [heights, kept, pull]
    own = torch.autograd.grad((weights * found.t[last]).sum(), wanted)
    for gradient, expected in zip(
        own, torch.autograd.grad((weights * exact).sum(), wanted), strict=True
    ):
        assert off(gradient, expected) < 1e-7


@pytest.mark.parametrize("way", [1.0, -1.0], ids=["forward", "reverse"])
@pytest.mark.parametrize("adjoint", ["checkpointed", "stepback", *CONTINUOUS])
def test_passages_that_end_a_solve_and_those_that_are_noted_down(adjoint: str, way: float) -> None:
    """y = exp(-k s) passes the levels c at s = -log(c) / k; the level is the condition's own."""
    rate, level = double([0.5, 1.0, 2.0]), double([0.7, 0.4])
    events = [
        ic.Event(lambda t, y, k: y[:, 0] - level[0], terminal=0),
        ic.Event(lambda t, y, k: y[:, 0] - level[1]),
    ]
    found = ic.solve(
        lambda t, y, k: -way * k.unsqueeze(1) * y, torch.ones(3, 1).double(), 0.0, way * math.inf,
        args=(ic.PerSample(rate),), event=events, adjoint=KINDS[adjoint], rtol=1e-10, atol=1e-10,
        stepping="per_sample", solver=method_for(adjoint),
    )  # fmt: skip
    times = found.sample_events.t.view(3, 2)
    exact = -way * level.log() / rate.unsqueeze(1)
    assert off(times, exact) < 1e-9
    weights = torch.tensor([[1.0, -2.0], [0.5, 0.3], [0.1, 0.7]], dtype=torch.float64)
    of_state = (found.ys[-1, :, 0] * torch.tensor([1.0, 2.0, 3.0])).sum()
    own = torch.autograd.grad((weights * times).sum() + of_state, [rate, level])
    expected = torch.autograd.grad((weights * exact).sum() + 6 * level[1], [rate, level])
    for gradient, right in zip(own, expected, strict=True):
        assert off(gradient, right) < 1e-7


@settings(max_examples=4)
@given(
    levels=st.lists(st.floats(0.15, 0.9), min_size=3, max_size=3),
    kick=st.floats(0.2, 2.0),
    adjoint=st.sampled_from(["slots3", "stepback", "backsolve"]),
)
def test_linear_systems_that_handlers_kick(levels: list[float], kick: float, adjoint: str) -> None:
    """A decay that is put up again whenever it is down at its level: all of it in closed form."""
    level, up = double(levels), double(kick)
    start = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    event = ic.Event(
        lambda t, y, c: y[:, 0] - c, handler=lambda t, y, c: y + up * (1 + 0.1 * t.unsqueeze(1)),
        direction=-1,
    )  # fmt: skip
    found = ic.solve(
        lambda t, y, c: -y, start, 0.0, 2.5, args=(ic.PerSample(level),), event=event,
        adjoint=KINDS[adjoint], stepping="per_sample", rtol=1e-10, atol=1e-10,
        solver=method_for(adjoint), save=ic.SaveAt(ts=[1.25], t1=True),
    )  # fmt: skip
    wanted = [start, level, up]
    own = torch.autograd.grad(found.ys.sin().sum(), wanted)
    loss = torch.zeros((), dtype=torch.float64)
    for sample in range(3):
        t, y, rows = torch.zeros(()).double(), start[sample, 0], []
        for when in (1.25, 2.5):
            while float((t + (y / level[sample]).log()).detach()) < when:
                t, y = t + (y / level[sample]).log(), level[sample]
                y = y + up * (1 + 0.1 * t)
            rows.append(y * torch.exp(t - when))
        assert off(found.ys[:, sample, 0], torch.stack(rows)) < 1e-8
        loss = loss + torch.stack(rows).sin().sum()
    for gradient, expected in zip(own, torch.autograd.grad(loss, wanted), strict=True):
        assert off(gradient, expected) < 1e-6


@pytest.mark.parametrize("adjoint", ["checkpointed", "stepback", *CONTINUOUS])
def test_samples_that_fail_leave_the_others_events_alone(adjoint: str) -> None:
    """One is on its way to a pole, behind its own."""

    def gradient(rows: list[int]) -> tuple[Tensor, ic.Solution]:
        start = torch.tensor([[1.0], [1.2], [1.4]], dtype=torch.float64)[rows].requires_grad_()
        bad = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)[rows]
        found = ic.solve(
            lambda t, y, bad: torch.where(bad.unsqueeze(1) > 0, y * y, -y), start, 0.0, 2.0,
            args=(ic.PerSample(bad),), stepping="per_sample", adjoint=KINDS[adjoint], throw=False,
            event=ic.Event(
                lambda t, y, bad: torch.stack([y[:, 0] - 0.5, 2 - y[:, 0]], 1),
                handler=lambda t, y, bad: y + 0.4, direction=-1,
            ),
            solver=method_for(adjoint), controller=ic.PID(min_step=1e-3), rtol=1e-6, atol=1e-6,
        )  # fmt: skip
        loss = found.sample_events.t.sum() + found.ys.sum()
        return torch.autograd.grad(loss, start)[0], found

    among, solution = gradient([0, 1, 2])
    assert solution.failed_samples == (1,)
    assert 1 in solution.sample_events.samples.tolist()
    expected, _ = gradient([0, 2])
    assert torch.allclose(among[[0, 2]], expected, rtol=1e-11, atol=0)
    assert bool(among.isfinite().all())


@pytest.mark.parametrize(
    ("dtype", "tol", "bound"),
    [(torch.float64, 1e-9, 1e-6), (torch.float32, 1e-5, 1e-3), (torch.complex128, 1e-9, 1e-6)],
    ids=str,
)
def test_states_of_several_leaves_and_kinds(dtype: torch.dtype, tol: float, bound: float) -> None:
    """A rotation that a handler sets up again, and what it feeds, which it halves."""
    real = torch.zeros((), dtype=dtype).real.dtype

    def gradient(adjoint: str) -> tuple[Tensor, ...]:
        z = torch.tensor([[1.0, 0.5], [1.2, 0.3], [0.8, -0.4]]).to(dtype).requires_grad_()
        fed = torch.tensor([0.1, 0.2, 0.3], dtype=real, requires_grad=True)
        w = torch.tensor(1.3, dtype=real, requires_grad=True)

        def field(t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
            z, fed = state["z"], state["fed"]
            swap = z.flip(1) * torch.tensor([1.0, -1.0], dtype=real)
            turned = 1j * z if dtype.is_complex else swap
            return {"z": w * turned - 0.1 * z, "fed": z.abs().square().sum(1) - fed}

        def again(t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"z": 0.4 * w * state["z"] + 1, "fed": 0.5 * state["fed"] + t}

        events = [
            ic.Event(lambda t, state: state["z"].real[:, 0] - 0.1 * w, again, direction=-1),
            ic.Event(lambda t, state: state["fed"] - 0.7, terminal=0),
        ]
        found = ic.solve(
            field, {"z": z, "fed": fed}, 0.0, torch.tensor([2.0, 6.0, 4.0]), event=events,
            adjoint=KINDS[adjoint], stepping="per_sample", solver=method_for(adjoint), rtol=tol,
            atol=tol, save=ic.SaveAt(ts=[1.0], t1=True),
        )  # fmt: skip
        assert set(found.sample_events.events.tolist()) == {0, 1}
        loss = found.sample_events.t.sum() + found.sample_events.y["fed"].sum()
        loss = loss + found.ys["fed"].sin().sum() + found.ys["z"].real.sum()
        return torch.autograd.grad(loss, [z, fed, w])

    exact = gradient("checkpointed")
    for adjoint in ("stepback", "backsolve"):
        for found, expected in zip(gradient(adjoint), exact, strict=True):
            assert off(found, expected) < bound, adjoint


# --- what is kept, refused and said ------------------------------------------------------------


def test_stepping_back_keeps_of_an_event_what_cannot_be_found_again() -> None:
    """Two states twice as wide for each; nothing of the steps between."""

    def peak(steps: int, events: int) -> float:
        rate = double(0.3)
        y0 = torch.ones(2, SIZE // 2, dtype=torch.float64)
        moments = ic.Event(
            lambda t, y: torch.stack([t - (k + 1) / 7 for k in range(events)], 1), terminal=0
        )

        def both() -> None:
            ic.solve(
                lambda t, y: (rate * y).cos(), y0, 0.0, 1.0, solver=ic.Reversible("rk4"),
                dt0=1 / steps, adjoint=ic.StepBack(), stepping="per_sample", event=moments,
            ).ys.sum().backward()  # fmt: skip

        assert y0.numel() * 8 == STATE
        return peak_states_of(both)

    few, many = peak(6, 1), peak(24, 1)
    assert many <= few + 0.5
    assert few + 2 * 4 <= peak(6, 3) + 1 <= few + 2 * 7


def test_a_state_behind_an_event_that_is_missed_is_told() -> None:
    """Rounding grows by exp(30) on the way back to the event of the second sample, not before."""
    k = double(0.5)
    y0 = torch.tensor([[2.0, 0.3], [1.5, 0.9]], dtype=torch.float64)
    event = ic.Event(lambda t, y: t - 0.25, handler=lambda t, y: y + 0.1, terminal=0)
    found = ic.solve(
        lambda t, y: k * (1 - y + (1 - y).sin()), y0, 0.0, torch.tensor([2.0, 30.25]),
        solver=ic.Reversible("heun"), controller=ic.Constant(), dt0=0.1, event=event,
        adjoint=ic.StepBack(), stepping="per_sample",
    )  # fmt: skip
    with pytest.warns(ic.GradientWarning, match="in sample 1, 300 steps back miss") as told:
        found.ys.sum().backward()
    assert re.search(r"the state behind the event at t = 0\.25 by", str(told[0].message))


def test_only_named_tensors_of_conditions_receive_a_gradient_from_backsolve() -> None:
    found = {}
    for named in (False, True):
        balls = Balls()
        parameters = (balls.shared["kept"],) if named else None
        sol = balls.solved(adjoint=ic.Backsolve(parameters=parameters))
        tensors = list(balls.tensors.values())
        pulled = torch.autograd.grad(sol.sample_events.t.sum(), tensors, allow_unused=True)
        found[named] = dict(zip(balls.tensors, pulled, strict=True))
    assert torch.equal(found[True]["kept"], found[False]["kept"])
    assert torch.equal(found[True]["height"], found[False]["height"])
    assert found[False]["level"] is not None
    assert found[True]["level"] is None


@pytest.mark.parametrize("adjoint", ["checkpointed", "stepback", *CONTINUOUS])
def test_a_time_without_a_derivative_is_refused(adjoint: str) -> None:
    y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    level = ic.Event(lambda t, y: (y[:, 0] - 0.5).detach())
    options: dict[str, Any] = {"stepping": "per_sample", "adjoint": KINDS[adjoint]}
    with pytest.raises(ic.GradientError, match="no derivative"):
        ic.solve(lambda t, y: -y, y0, 0.0, 3.0, event=level, solver=method_for(adjoint), **options)


def test_a_gradient_of_backsolve_through_events_is_differentiated_once() -> None:
    balls = Balls()
    times = balls.solved(adjoint=ic.Backsolve()).sample_events.t
    (first,) = torch.autograd.grad(times.sum(), balls.own["height"], create_graph=True)
    with pytest.raises(ic.GradientError, match="cannot itself be differentiated"):
        torch.autograd.grad(first.sum(), balls.own["height"])
