"""Compiled rounds of per-sample stepping do what the loop does operation by operation."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.compile.native.library import driver
from isocline.compile.native.rounds import NativeRounds

from ..known import kind_of
from ..per_sample.lane_cases import (
    BATCH,
    EXPLICIT,
    Net,
    chosen,
    inputs,
    off,
    oscillator,
)
from ..per_sample.test_faults import BAD, COUNT, GOOD, STATUS
from ..per_sample.test_faults import batch as faulty
from ..per_sample.test_faults import field as failing
from .conftest import interpret

pytestmark = pytest.mark.usefixtures("graphs")


def of_few_stages() -> list[Any]:
    """Of each kind of method the one of the fewest stages at once: tracing goes with them."""
    methods = [case.values[0] for case in EXPLICIT]
    falling = sorted(methods, key=lambda method: -len(method.tableau.c))
    quick = {kind_of(method): method for method in falling}.values()
    return [
        pytest.param(method, marks=[] if method in quick else pytest.mark.slow)
        for method in methods
    ]


FEW_STAGES: dict[str, Any] = {"solver": ic.Bosh3(), "rtol": 1e-5, "atol": 1e-6}
"""Of a method with few stages there is little to trace."""

METHODS = pytest.mark.parametrize("method", of_few_stages(), ids=lambda method: method.__name__)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As `graphs`, with nothing traced before; lists what would have been compiled."""
    assert driver() is not None
    return interpret(monkeypatch, driven=True)


Answer = tuple[ic.Solution, dict[str, Tensor]]


def answer(
    field: Callable[..., Any], given: dict[str, Tensor], *, compile: bool, **options: Any
) -> Answer:
    """A solve of all samples with numbers as times, and the gradients of a loss over its rows."""
    y0, mu = (given[name].detach().clone().requires_grad_() for name in ("y0", "mu"))
    settings: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-8, **options}
    found = ic.solve(
        field,
        y0,
        given["t0"].detach(),
        given["t1"].detach(),
        args=(ic.PerSample(mu),),
        stepping="per_sample",
        compile=compile,
        **settings,
    )
    parameters = dict(field.named_parameters()) if isinstance(field, nn.Module) else {}
    wanted = {"y0": y0, "mu": mu, **parameters}
    weights = torch.linspace(-1, 2, found.ys.numel(), dtype=torch.float64).view_as(found.ys)
    gradients = torch.autograd.grad((weights * found.ys.sin()).sum(), list(wanted.values()))
    return found, dict(zip(wanted, gradients, strict=True))


def alike(one: Answer, other: Answer, within: float = 1e-8) -> None:
    """The same steps, and the same numbers: rounding moves lengths of steps, and little else."""
    (found, gradients), (expected, theirs) = one, other
    assert found.statuses == expected.statuses
    for count in ("steps_accepted", "steps_rejected"):
        counts, others = found.stats.samples, expected.stats.samples
        assert torch.equal(getattr(counts, count), getattr(others, count)), count
    assert torch.equal(found.lengths, expected.lengths)
    assert off(found.ts, expected.ts) <= within
    assert off(found.ys, expected.ys) <= within
    for name, gradient in theirs.items():
        assert off(gradients[name], gradient) <= within, name


def both(field: Callable[..., Any], given: dict[str, Tensor], **options: Any) -> Answer:
    """What is compiled, after a comparison with what is not; by the driver and without it."""
    compiled = answer(field, given, compile=True, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeRounds, "rounds", lambda *_, **__: None)
        patch.setattr(NativeRounds, "pulled", lambda *_: None)
        one_by_one = answer(field, given, compile=True, **options)
    alike(compiled, one_by_one, within=0.0)
    alike(compiled, answer(field, given, compile=False, **options))
    return compiled


def tolerance(method: Any) -> dict[str, float]:
    """Such that methods of low order need a hundred steps or so, and rounding decides nothing."""
    tol = max(1e-6, 8.0 ** -float(method().error_order))
    return {"rtol": tol, "atol": tol}


def times(given: dict[str, Tensor]) -> Tensor:
    """Three output times of each sample, the first at its start, the last at its end."""
    parts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    start, end = given["t0"].detach(), given["t1"].detach()
    ts = start.unsqueeze(1) + (end - start).unsqueeze(1) * parts
    ts[:, 2] = end
    return ts


@METHODS
def test_every_method_takes_the_loops_steps(method: Any, interpreted: list[str]) -> None:
    torch.manual_seed(0)
    both(Net(), inputs(), solver=method(), **tolerance(method))
    assert [what.split(" of ")[0] for what in interpreted] == ["the gradient", "a step"]


@METHODS
def test_output_between_steps(method: Any) -> None:
    if method.tableau.extra_a:
        with pytest.warns(ic.CompileWarning, match="further stages"):
            answer(oscillator, inputs(), compile=True, solver=method(), save=ic.SaveAt(ts=[0.7]))
        return
    torch.manual_seed(0)
    given = inputs()
    lengths = torch.tensor([3, 0, 1, 2, 3, 2])
    for save in (
        ic.SaveAt(t0=True, ts=times(given), lengths=lengths, t1=True),
        ic.SaveAt(steps=True),
    ):
        both(Net(), given, solver=method(), save=save, **tolerance(method))


def test_continuous_output_and_what_a_function_makes_of_rows(interpreted: list[str]) -> None:
    given = inputs()

    def at(compile: bool) -> Tensor:
        found = ic.solve(
            oscillator, given["y0"], 0.0, 1.5, args=(ic.PerSample(given["mu"]),),
            stepping="per_sample", save=ic.SaveAt(dense=True, ts=[0.3], fn=lambda t, y: y * y),
            solver="bosh3", compile=compile,
        )  # fmt: skip
        states = found.dense(torch.tensor([0.1, 0.77, 1.5], dtype=torch.float64))
        return torch.cat([states.flatten(), found.ys.flatten()])

    assert off(at(True), at(False)) < 1e-12
    assert interpreted


@pytest.mark.parametrize(
    "controller",
    [
        ic.PI(),
        ic.PID(derivative=0.1, factor_max=4.0),
        ic.PID(max_step=0.05),
        ic.PID(min_step=1e-6, stops=(0.5, 0.9)),
        ic.Constant(stops=(0.5,)),
    ],
    ids=["pi", "pid", "max_step", "stops", "constant"],
)
def test_controllers_decide_as_they_do_for_the_loop(
    controller: Any, interpreted: list[str]
) -> None:
    dt0 = 0.07 if isinstance(controller, ic.Constant) else None
    both(oscillator, inputs(), controller=controller, dt0=dt0, **FEW_STAGES)
    assert interpreted


def test_tolerances_of_each_sample_and_times_that_fall(interpreted: list[str]) -> None:
    given = inputs()
    given["t1"] = given["t1"].detach() * torch.tensor([1.0, -1.0, 1.0, 1.0, -0.3, 1.0])
    rtol = ic.PerSample(torch.logspace(-8, -5, BATCH, dtype=torch.float64))
    atol = torch.tensor([1e-7, 1e-6], dtype=torch.float64)
    both(oscillator, given, rtol=rtol, atol=atol, save=ic.SaveAt(t0=True, t1=True))
    assert interpreted


def test_structures_and_other_dtypes(interpreted: list[str]) -> None:
    def field(t: Tensor, state: dict[str, Tensor], mu: Tensor) -> dict[str, Tensor]:
        slope = oscillator(t, state["xv"].double(), mu.double())
        return {"xv": slope.to(state["xv"].dtype), "work": (slope[:, 1] * t).cos()}

    given = inputs()
    for dtype, within in ((torch.float32, 1e-4), (torch.bfloat16, 1e-2)):
        y0 = {"xv": given["y0"].detach().to(dtype), "work": torch.zeros(BATCH)}

        def run(compile: bool, y0: dict[str, Tensor] = y0) -> ic.Solution:
            mu = ic.PerSample(given["mu"].detach())
            return ic.solve(
                field, y0, 0.0, 2.0, args=(mu,), stepping="per_sample", solver="bosh3",
                compile=compile,
            )  # fmt: skip

        found, expected = run(True).ys, run(False).ys
        for name in y0:
            assert found[name].dtype == expected[name].dtype
            assert off(found[name].double(), expected[name].double()) < within
    assert len(interpreted) == 2


def test_any_number_of_samples_by_one_program(interpreted: list[str]) -> None:
    torch.manual_seed(0)
    field, every = Net(), inputs()
    for company in ([4], [5, 0], [3, 1, 2], list(range(BATCH)), [2] * 40):
        both(field, chosen(every, company), **FEW_STAGES)
    assert len(interpreted) == 2


def test_gradients_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(1)
    field, every = Net(), inputs()
    _, among = answer(field, every, compile=True)
    weights = torch.linspace(-1, 2, 2 * BATCH, dtype=torch.float64).view(1, BATCH, 2)
    totals = {name: torch.zeros_like(p) for name, p in field.named_parameters()}
    for sample in range(BATCH):
        given = chosen(every, [sample])
        y0, mu = given["y0"], given["mu"]
        found = ic.solve(
            field, y0, given["t0"].detach(), given["t1"].detach(), args=(ic.PerSample(mu),),
            stepping="per_sample", compile=True, rtol=1e-7, atol=1e-8,
        )  # fmt: skip
        loss = (weights[:, [sample]] * found.ys.sin()).sum()
        own = torch.autograd.grad(loss, [y0, mu, *field.parameters()])
        assert off(own[0], among["y0"][[sample]]) < 1e-12
        assert off(own[1], among["mu"][[sample]]) < 1e-12
        for total, gradient in zip(totals.values(), own[2:], strict=True):
            total += gradient
    for name, total in totals.items():
        assert off(total, among[name]) < 1e-12


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "recorded"])
def test_samples_that_fail_stop_alone(grad: bool, interpreted: list[str]) -> None:
    def run(samples: list[int], compile: bool) -> tuple[ic.Solution, Tensor]:
        y0, fault = faulty()
        start = y0[samples].requires_grad_(grad)
        with torch.set_grad_enabled(grad):
            found = ic.solve(
                failing, start, 0.0, 3.0, args=(ic.PerSample(fault[samples]),), max_steps=400,
                stepping="per_sample", save=ic.SaveAt(ts=[0.5, 2.0], t1=True), throw=False,
                compile=compile,
            )  # fmt: skip
            if grad:
                found.ys[:, [i for i, s in enumerate(samples) if s in GOOD]].sin().sum().backward()
        return found, start.grad if grad else start

    every = list(range(COUNT))
    (among, gradient), (without, own) = run(every, True), run(GOOD, True)
    loop, expected = run(every, False)
    assert among.statuses == loop.statuses
    for sample, kind in BAD.items():
        assert among.statuses[sample] is STATUS[kind]
        assert off(among.t_ends[[sample]] + 1, loop.t_ends[[sample]] + 1) < 1e-6
    assert torch.equal(among.lengths, loop.lengths)
    assert off(among.ys[:, GOOD], without.ys) < 1e-13
    assert off(among.ys, loop.ys) < 1e-7
    assert bool(gradient[GOOD].isfinite().all())
    assert off(gradient[GOOD], own) < 1e-13
    assert off(gradient[GOOD], expected[GOOD]) < 1e-6
    assert interpreted


def test_the_last_sample_goes_on_when_all_others_have_failed() -> None:
    def field(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
        bad = (rate.unsqueeze(1) < 0) & (t.unsqueeze(1) > 0.1)
        return torch.where(bad, torch.nan, torch.cos(5 * y) * rate.unsqueeze(1))

    rate = torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(3, 1, dtype=torch.float64)

    def run(compile: bool) -> tuple[Tensor, Tensor]:
        found = ic.solve(
            field, y0, 0.0, 2.0, args=(ic.PerSample(rate),), stepping="per_sample", throw=False,
            compile=compile,
        )  # fmt: skip
        assert found.failed_samples == (0, 2)
        (gradient,) = torch.autograd.grad(found.ys[0, 1].sum(), [rate])
        return found.ys[0, 1], gradient

    (end, gradient), (expected, other) = run(True), run(False)
    assert off(end, expected) < 1e-12
    assert off(gradient, other) < 1e-7
    assert gradient[0] == gradient[2] == 0


def test_a_lane_that_stands_where_the_field_is_not_finite_spoils_no_gradient(
    interpreted: list[str],
) -> None:
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return rate * torch.where(y > 1.5, torch.nan, y)

    y0 = torch.tensor([[0.1], [1.4], [0.2]], dtype=torch.float64)

    def run(compile: bool) -> tuple[ic.Solution, Tensor]:
        found = ic.solve(  # Euler's method steps to where it has not looked
            field, y0, 0.0, 0.5, solver="euler", dt0=0.1, stepping="per_sample", throw=False,
            compile=compile,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(found.ys[0, [0, 2]].sum(), [rate])
        return found, gradient

    (found, gradient), (loop, expected) = run(True), run(False)
    assert found.statuses == loop.statuses
    assert found.failed_samples == (1,)
    assert off(gradient, expected) < 1e-14
    assert interpreted


def test_a_way_of_no_length_is_one_step(interpreted: list[str]) -> None:
    given = inputs()
    with torch.no_grad():
        given["t1"][2] = given["t0"][2]
    both(oscillator, given, save=ic.SaveAt(t0=True, t1=True))
    assert interpreted


@pytest.mark.parametrize("width", [4, 5])
def test_states_as_columns_and_as_rows(width: int, interpreted: list[str]) -> None:
    def field(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        around = torch.stack([y[:, (i + 1) % width] for i in range(width)], 1)
        return mu.unsqueeze(1) * around * torch.cos(y) - 0.2 * y

    given = inputs()
    given["y0"] = torch.randn(BATCH, width, dtype=torch.float64)
    atol = torch.logspace(-6, -5, width, dtype=torch.float64)
    save = ic.SaveAt(ts=times(given), t1=True)
    both(field, given, save=save, **FEW_STAGES | {"atol": atol})
    for sample in (1, 4):
        alone = chosen(given, [sample])
        both(field, alone, save=ic.SaveAt(ts=times(alone), t1=True), **FEW_STAGES)
    assert interpreted


def test_second_derivatives_are_those_of_the_loop() -> None:
    def second(compile: bool) -> Tensor:
        given = inputs(3)
        mu = given["mu"]
        end = ic.solve(
            oscillator, given["y0"], 0.0, 1.0, args=(ic.PerSample(mu),), stepping="per_sample",
            compile=compile,
        ).ys  # fmt: skip
        (first,) = torch.autograd.grad(end.sin().sum(), [mu], create_graph=True)
        (found,) = torch.autograd.grad(first.square().sum(), [mu])
        return found

    assert off(second(True), second(False)) < 1e-9


def test_a_tensor_that_was_written_to_before_the_backward_pass() -> None:
    torch.manual_seed(0)
    field, given = Net(), inputs()
    found = ic.solve(
        field, given["y0"], 0.0, 1.0, args=(ic.PerSample(given["mu"]),), stepping="per_sample",
        compile=True,
    )  # fmt: skip
    with torch.no_grad():
        field.outer.bias.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.ys.sum().backward()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"adjoint": ic.Direct()}, "Checkpointed"),
        ({"adjoint": ic.Checkpointed(slots=2)}, "Checkpointed"),
        ({"norm": lambda y: y.abs().amax(1)}, "norm is a function"),
        ({"event": ic.Event(lambda t, y, mu: y[:, 0] - 30.0)}, "events"),
        ({"t1": inputs()["t1"]}, "time requires grad"),
        ({"solver": ic.Reversible(ic.Tsit5())}, "not an explicit Runge-Kutta"),
    ],
    ids=["direct", "slots", "norm", "event", "times", "reversible"],
)
def test_what_is_not_compiled_runs_as_ever(options: dict[str, Any], reason: str) -> None:
    given = inputs()
    t1 = options.pop("t1", -0.9)

    def run(**more: Any) -> Tensor:
        args = (ic.PerSample(given["mu"]),)
        return ic.solve(
            oscillator, given["y0"], -1.0, t1, args=args, stepping="per_sample", **options, **more
        ).ys  # fmt: skip

    with pytest.warns(ic.CompileWarning, match=reason):
        found = run(compile=True)
    assert torch.equal(found, run())


def test_samples_in_another_axis_and_tensors_with_two_roles_are_not_compiled() -> None:
    given = inputs()
    mu = given["mu"].detach()

    def turned(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
        return oscillator(t, y, mu[0])

    def twice(t: Tensor, y: Tensor, own: Tensor) -> Tensor:
        return oscillator(t, y, own) * mu.mean()

    for field, arg, reason in (
        (turned, ic.PerSample(mu.unsqueeze(0), axis=1), "put them first"),
        (twice, ic.PerSample(mu), "held by the field too"),
    ):
        with pytest.warns(ic.CompileWarning, match=reason):
            ic.solve(field, given["y0"], 0.0, 1.0, args=(arg,), stepping="per_sample", compile=True)


def test_no_reference_cycle_keeps_a_solve_alive(interpreted: list[str]) -> None:
    given = inputs(3)

    def solved() -> list[weakref.ref[Tensor]]:
        mu, y0 = given["mu"] * 1.0, given["y0"] * 1.0
        args = (ic.PerSample(mu),)
        end = ic.solve(
            oscillator, y0, 0.0, 0.5, args=args, stepping="per_sample", compile=True
        ).ys  # fmt: skip
        end.sum().backward()
        return [weakref.ref(tensor) for tensor in (mu, y0, end)]

    solved()
    gc.disable()
    try:
        assert [reference() for reference in solved()] == [None] * 3
    finally:
        gc.enable()
    assert interpreted


def test_machine_code(fresh: None) -> None:
    torch.manual_seed(0)
    field, given = Net(), inputs(40)
    found = both(field, given, save=ic.SaveAt(ts=times(given), t1=True))
    rejected = found[0].stats.samples.steps_rejected
    assert 0 < int((rejected > 0).sum()) < 40  # some rounds were mixed
    both(field, chosen(given, [7]), save=ic.SaveAt(ts=times(chosen(given, [7])), t1=True))
