"""What a solution with events holds, and what looking for events leaves as it was.

One method of each kind is tried at once, the others are slow (`one_of_each_kind`).
"""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

from ..adjoints.adjoint_cases import FEW
from ..known import SOLVERS, Watched, fixed, one_of_each_kind, swing
from .known_events import (
    affordable,
    ball,
    bounces,
    clocked,
    close,
    f64,
    fall,
    height,
    rebound,
    still,
    times_of,
    turned,
)

GRAD = pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
WAYS = pytest.mark.parametrize("way", [1, -1], ids=["forward", "reverse"])
EVERY = pytest.mark.parametrize("method", one_of_each_kind(SOLVERS))


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def doubling(at: float, terminal: int = 0) -> ic.Event:
    """At a time, twice the state."""
    return ic.Event(clocked(lambda t: t - at), lambda t, y: 2 * y, terminal=terminal)


def doubled(t: Tensor, at: float = 0.5) -> Tensor:
    """The solution of `decay` from (1, 3) with that event, which is continuous from before."""
    return torch.exp(-t)[:, None] * f64(1.0, 3.0) * (1 + (t > at))[:, None]


# --- what looking changes: nothing ------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(
    ("grad", "dense"), [(False, True), (True, False)], ids=["no_grad-dense", "grad-steps"]
)
def test_watching_changes_no_bit_of_the_solution(
    method: type[ic.Solver], grad: bool, dense: bool
) -> None:
    """Events without a handler, none of which ends the solve: the same steps to the last bit."""
    arguments = affordable(method)
    ts = [0.3, 1.1, 4.2] if dense else None
    save = ic.SaveAt(t0=True, steps=True, ts=ts, dense=dense)
    events = [ic.Event(turned, terminal=0), ic.Event(clocked(torch.cos), terminal=99)]
    y0 = f64(1.0, 0.0).requires_grad_(grad)

    def run(event: Any) -> ic.Solution:
        with torch.set_grad_enabled(grad):
            return ic.solve(swing, y0, 0, 5, save=save, event=event, **arguments)

    plain, watched = run(None), run(events)
    times = torch.linspace(0, 5, 50, dtype=torch.float64)
    assert len(watched.events) >= 2
    assert torch.equal(watched.ts, plain.ts)
    assert torch.equal(watched.ys, plain.ys)
    if dense:
        assert torch.equal(watched(times), plain(times))
    for name in ("steps_accepted", "steps_rejected"):
        assert getattr(watched.stats, name) == getattr(plain.stats, name)
    if grad:
        ours, theirs = (torch.autograd.grad(s.ys.sum(), y0)[0] for s in (watched, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["tsit5", "dop853", "bosh3", "rk4"])
@pytest.mark.parametrize("adjoint", [None, *FEW.values()], ids=["no_grad", *FEW])
def test_with_a_graph_and_without_events_have_the_same_bits(method: str, adjoint: Any) -> None:
    options: dict[str, Any] = {"solver": method} if method != "rk4" else fixed(ic.RK4, 0.1)
    events = [ball(7), ic.Event(lambda t, y: y[1], terminal=0)]

    def run(grad: bool, adjoint: Any) -> ic.Solution:
        with torch.set_grad_enabled(grad):
            y0 = f64(2.0, 0.0).requires_grad_(grad)
            save = ic.SaveAt(ts=[0.1, 0.7, 1.9], t1=True)
            return ic.solve(
                fall, y0, 0, math.inf, event=events, save=save, adjoint=adjoint, **options
            )

    plain, found = run(False, None), run(adjoint is not None, adjoint)
    assert torch.equal(times_of(found), times_of(plain))
    assert [(one.event, one.element) for one in found.events] == [
        (one.event, one.element) for one in plain.events
    ]
    for one, other in zip(found.events, plain.events, strict=True):
        torch.testing.assert_close(one.y, other.y, rtol=0, atol=0)
    assert torch.equal(found.ys, plain.ys)


@EVERY
@pytest.mark.parametrize(
    ("grad", "handler"),
    [(False, None), (True, lambda t, y: y.flip(0))],
    ids=["no_grad-watch", "grad-handle"],
)
def test_statistics_count_what_happened(method: type[ic.Solver], grad: bool, handler: Any) -> None:
    field = Watched(swing)
    event = ic.Event(lambda t, y: torch.stack([y[1] + 0.5, t - 2]), handler, terminal=0)
    arguments = affordable(method)
    with torch.set_grad_enabled(grad):
        y0 = f64(1.0, 0.0).requires_grad_(grad)
        save = ic.SaveAt(steps=True)
        sol = ic.solve(field, y0, 0, 5, event=event, save=save, **arguments)
        assert sol.events
        assert sol.stats.nfe_forward == len(field.values)
        assert sol.stats.steps_accepted == len(sol.ts)
        if grad:
            before = len(field.values)
            sol.ys.sum().backward()
            assert sol.stats.nfe_backward == len(field.values) - before
            assert sol.stats.nfe_forward == before
    assert min(field.values) >= 0
    assert max(field.values) <= 5


# --- what is saved ----------------------------------------------------------------------------


@GRAD
@WAYS
@pytest.mark.parametrize("recorded", [True, False], ids=["ts_with_grad", "ts"])
def test_every_way_of_saving_across_a_jump(grad: bool, way: int, recorded: bool) -> None:
    """Rows are those before the event up to its time, and those behind it from then on."""
    times = f64(0.0, 0.2, 0.5, 0.5, 0.7, 1.0) * way
    exact = doubled(times * way)
    for t0 in (False, True):
        for t1 in (False, True):
            ts = times.clone().requires_grad_(recorded and grad)
            save = ic.SaveAt(t0=t0, ts=ts, t1=t1)
            with torch.set_grad_enabled(grad):
                sol = ic.solve(
                    lambda t, y: -way * y, f64(1.0, 3.0), 0, way, rtol=1e-10, atol=1e-10,
                    event=doubling(0.5 * way), save=save,
                )  # fmt: skip
            rows = [exact[:1]] * t0 + [exact] + [exact[-1:]] * t1
            wanted = [times[:1]] * t0 + [times] + [times[-1:]] * t1
            close(sol.ts, torch.cat(wanted), 0.0)
            torch.testing.assert_close(sol.ys, torch.cat(rows), rtol=1e-8, atol=0)


@GRAD
@pytest.mark.parametrize("terminal", [0, 1])
def test_steps_end_at_events_that_interrupt_the_solve(grad: bool, terminal: int) -> None:
    options = fixed(ic.RK4, 0.2)
    with torch.set_grad_enabled(grad):
        y0 = f64(1.0, 3.0).requires_grad_(grad)
        save = ic.SaveAt(t0=True, steps=True, ts=[0.4, 0.45], dense=True)
        sol = ic.solve(decay, y0, 0, 1, event=doubling(0.5, terminal), save=save, **options)
    before = [0.0, 0.2, 0.4, 0.45, 0.5]
    after = [] if terminal else [0.7, 0.9, 1.0]
    close(sol.ts, before + after, 1e-15)
    assert sol.t_end == sol.ts[-1]
    torch.testing.assert_close(sol.ys, doubled(sol.ts), rtol=1e-4, atol=0)
    torch.testing.assert_close(sol(sol.ts), sol.ys, rtol=0, atol=1e-15)
    assert sol.stats.steps_accepted == len(before + after) - 2


@GRAD
@WAYS
def test_dense_output_on_both_sides_of_a_jump(grad: bool, way: int) -> None:
    with torch.set_grad_enabled(grad):
        sol = ic.solve(
            lambda t, y: -way * y, f64(1.0, 3.0), 0, way, rtol=1e-10, atol=1e-10,
            event=doubling(0.5 * way), save=ic.SaveAt(dense=True),
        )  # fmt: skip
    event = sol.events[0].t.item() * way
    for t in (0.0, 0.3, event, math.nextafter(event, 2), event + 1e-9, 0.8, 1.0):
        exact = doubled(f64(t)[None], event)[0]
        torch.testing.assert_close(sol(t * way), exact, rtol=1e-8, atol=0)
    assert torch.equal(sol(event * way), sol.events[0].y)
    many = sol(way * f64(0.8, event, 0.3, math.nextafter(event, 2)))
    exact = doubled(f64(0.8, event, 0.3, math.nextafter(event, 2)), event)
    torch.testing.assert_close(many, exact, rtol=1e-8, atol=0)
    with pytest.raises(ic.InputError, match="within"):
        sol(1.1 * way)


@GRAD
def test_dense_output_ends_at_a_terminal_event(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        sol = ic.solve(decay, f64(1.0, 3.0), 0, 9, event=height_of(0.5), save=ic.SaveAt(dense=True))
    assert sol.t_end == pytest.approx(math.log(2), abs=1e-5)
    assert torch.equal(sol(sol.t_end), sol.events[0].y)
    with pytest.raises(ic.InputError, match="within"):
        sol(sol.t_end + 1e-9)


def height_of(level: float) -> ic.Event:
    return ic.Event(lambda t, y: y[0] - level)


@GRAD
def test_output_times_beyond_a_terminal_event_are_left_out(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        for t1 in (False, True):
            save = ic.SaveAt(t0=True, ts=[0.1, 0.6, 0.8, 2.0], t1=t1)
            sol = ic.solve(decay, f64(1.0, 3.0), 0, math.inf, event=height_of(0.5), save=save,
                           rtol=1e-9, atol=1e-9)  # fmt: skip
            close(sol.ts, [0.0, 0.1, 0.6] + [math.log(2)] * t1, 1e-8)
            torch.testing.assert_close(sol.ys, doubled(sol.ts, math.inf), rtol=1e-7, atol=0)
        save = ic.SaveAt(ts=[0.8, 2.0])
        sol = ic.solve(decay, f64(1.0, 3.0), 0, 5, event=height_of(0.5), save=save)
        assert sol.ts.shape == (0,)
        assert sol.ys is None
        assert len(sol.events) == 1


@GRAD
@pytest.mark.parametrize("adjoint", FEW.values(), ids=list(FEW))
def test_a_function_of_the_state_is_kept(grad: bool, adjoint: Any) -> None:
    """Also where times record a gradient, which the function then sees."""
    ts = f64(0.25, 0.75).requires_grad_(grad)
    save = ic.SaveAt(ts=ts, t1=True, fn=lambda t, y: {"sum": y.sum() * t, "t": t})
    with torch.set_grad_enabled(grad):
        sol = ic.solve(decay, f64(1.0, 3.0), 0, 1, event=doubling(0.5), save=save, adjoint=adjoint,
                       rtol=1e-9, atol=1e-9)  # fmt: skip
    times = f64(0.25, 0.75, 1.0)
    torch.testing.assert_close(sol.ys["t"], times)
    torch.testing.assert_close(sol.ys["sum"], doubled(times).sum(1) * times, rtol=1e-7, atol=0)
    if grad:
        (found,) = torch.autograd.grad(sol.ys["sum"].sum(), ts)
        at = times[:2]
        torch.testing.assert_close(found, (doubled(at).sum(1) * (1 - at)), rtol=1e-6, atol=0)


@WAYS
def test_the_last_step_before_t1_is_an_event_s(way: int) -> None:
    """A terminal event exactly at t1 ends the solve as an event; others let it end as it would."""
    at_end = clocked(lambda t: t - way)
    for event, status in (
        (ic.Event(at_end), ic.Status.EVENT),
        (ic.Event(at_end, terminal=0), ic.Status.SUCCESS),
        (ic.Event(at_end, lambda t, y: 2 * y), ic.Status.SUCCESS),
    ):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                sol = ic.solve(decay, f64(1.0, 3.0), 0, way, event=event, save=ic.SaveAt(t1=True))
            assert sol.status is status
            assert sol.ts.tolist() == [way]
            torch.testing.assert_close(sol.ys, torch.exp(f64(-way)) * f64(1.0, 3.0)[None],
                                       rtol=1e-4, atol=0)  # fmt: skip


def test_events_hold_states_and_not_their_time_s_rows() -> None:
    """Rows that stand for events are no output: `ts` holds what was asked for."""
    event = ic.Event(lambda t, y: y[0] - 0.7, terminal=0)
    sol = ic.solve(decay, f64(1.0, 3.0), 0, 1, event=event, save=ic.SaveAt(ts=[0.9]))
    assert sol.ts.tolist() == [0.9]
    assert sol.ys.shape == (1, 2)
    assert sol.events[0].t.dtype == torch.float64
    assert sol.events[0].t.shape == ()
    torch.testing.assert_close(sol.events[0].y, f64(0.7, 2.1), rtol=0, atol=1e-4)


def test_no_span_no_event() -> None:
    event = ic.Event(lambda t, y: y[0] - 1)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            sol = ic.solve(decay, f64(1.0, 3.0), 2, 2, event=event)
        assert sol.status is ic.Status.SUCCESS
        assert sol.events == ()
        assert torch.equal(sol.ys, f64(1.0, 3.0)[None])


# --- constant steps, controllers, batches -----------------------------------------------------


def test_constant_steps_start_anew_at_an_event() -> None:
    save, options = ic.SaveAt(steps=True), fixed(ic.RK4, 0.3)
    sol = ic.solve(decay, f64(1.0, 3.0), 0, 1, event=doubling(0.4), save=save, **options)
    close(sol.ts, [0.3, 0.4, 0.7, 1.0], 1e-15)
    free = ic.Event(clocked(lambda t: t - 0.4), terminal=0)
    sol = ic.solve(decay, f64(1.0, 3.0), 0, 1, event=free, save=save, **options)
    close(sol.ts, [0.3, 0.6, 0.9, 1.0], 1e-15)


def test_stops_of_the_controller_are_kept_behind_an_event() -> None:
    controller = ic.PID(stops=(0.2, 0.8))
    sol = ic.solve(
        still, f64(1.0, 3.0), 0, 1, controller=controller, event=doubling(0.4),
        save=ic.SaveAt(steps=True),
    )  # fmt: skip
    assert {0.2, 0.4, 0.8, 1.0} <= set(sol.ts.tolist())


def test_a_batch_shares_its_time() -> None:
    """The first sample to arrive ends the solve for all."""
    rates = f64(1.0, 3.0, 2.0)
    event = ic.Event(lambda t, y: y[:, 0] - 0.5)
    sol = ic.solve(lambda t, y: -rates[:, None] * y, torch.ones(3, 1).double(), 0, 9, event=event,
                   rtol=1e-9, atol=1e-9)  # fmt: skip
    assert sol.events[0].element == 1
    assert sol.t_end == pytest.approx(math.log(2) / 3, abs=1e-8)
    assert sol.ys.shape == (1, 3, 1)


# --- around a solve ---------------------------------------------------------------------------


def test_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    sol = ic.solve(fall, f64(2.0, 0.0), 0, math.inf, event=ball(3), progress=True)
    close(times_of(sol), bounces(3), 1e-5)


@pytest.mark.parametrize("adjoint", FEW.values(), ids=list(FEW))
def test_autocast(adjoint: Any) -> None:
    """The field sees the caller's autocast; conditions and handlers keep the state's precision."""
    seen: set[torch.dtype] = set()
    layer, level = nn.Linear(2, 2), nn.Linear(2, 1)

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.add(layer(y).dtype)
        return torch.tanh(layer(y)) + torch.tensor([1.0, 0.5])

    def condition(t: Tensor, y: Tensor) -> Tensor:
        found = 0.01 * level(y) + y[0] - 0.4
        assert found.dtype == torch.float32
        return found

    event = ic.Event(condition, lambda t, y: y - 0.3, terminal=2)
    with torch.autocast("cpu", torch.bfloat16):
        sol = ic.solve(field, torch.zeros(2), 0, 5, event=event, adjoint=adjoint, rtol=1e-3)
        assert sol.status is ic.Status.EVENT
        sol.events[-1].t.backward()
    assert seen == {torch.bfloat16}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert level.weight.grad is not None


def test_inference_mode() -> None:
    with torch.inference_mode():
        sol = ic.solve(fall, f64(2.0, 0.0), 0, math.inf, event=ball(5), rtol=1e-8, atol=1e-8)
    close(times_of(sol), bounces(5), 1e-7)


def test_pickle() -> None:
    with torch.no_grad():
        sol = ic.solve(
            fall, f64(2.0, 0.0), 0, 3, event=ball(99), save=ic.SaveAt(steps=True, dense=True)
        )
    again = pickle.loads(pickle.dumps(sol))
    assert again.status is sol.status
    assert torch.equal(times_of(again), times_of(sol))
    assert all(map(torch.equal, (o.y for o in again.events), (o.y for o in sol.events)))
    assert torch.equal(again(1.7), sol(1.7))
    event = ic.Event(height, rebound, terminal=3, direction=-1, tolerance=1e-9)
    assert pickle.loads(pickle.dumps(event)) == event


def test_a_solution_prints_its_events() -> None:
    sol = ic.solve(still, f64(1.0, 2.0), 0, 1, event=ic.Event(clocked(lambda t: t - 0.5)))
    assert "Occurrence(event=0, element=0, t=tensor(0.5000" in repr(sol)
    shown = repr(ic.Event(height, terminal=2, direction=1))
    assert shown.startswith("Event(condition=<function height")
    assert "handler=None, terminal=2, direction=1, tolerance=None)" in shown


def test_explain_takes_all_segments_again() -> None:
    sol = ic.solve(fall, f64(2.0, 0.0), 0, math.inf, event=ball(5))
    assert f"{sol.stats.steps_accepted}" in str(sol.explain())
