"""Solves under the transforms of `torch.func`, and in forward mode, against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

import isocline as ic

TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
FIXED: dict[str, Any] = {"solver": "rk4", "dt0": 0.05}

EXACT: dict[str, Any] = {
    "default": None,
    "slots": ic.Checkpointed(slots=2),
    "direct": ic.Direct(),
    "forward": ic.Forward(),
}


def ramp(*shape: int) -> Tensor:
    """Numbers of mixed sign and size; drawn ones may not be had under vmap."""
    count = torch.Size(shape).numel()
    return torch.cos(1.7 * torch.arange(1, count + 1, dtype=torch.float64)).view(shape)


def matrices(*count: int) -> Tensor:
    return 0.7 * ramp(*count, 3, 3)


def vectors(*count: int) -> Tensor:
    return ramp(*count, 3)


def end(A: Tensor, y0: Tensor, **options: Any) -> Tensor:
    """Of dy/dt = A y at t = 1, by a solve whose field closes over A."""
    found: Tensor = ic.solve(lambda t, y: A @ y, y0, 0.0, 1.0, **{**TIGHT, **options}).ys[-1]
    return found


def exact(A: Tensor, y0: Tensor, **options: Any) -> Tensor:
    return torch.linalg.matrix_exp(A) @ y0


def scalar(function: Callable[..., Tensor], **options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda A, y0: function(A, y0, **options).sin().sum()


Transform = Callable[[Callable[..., Tensor]], Any]

NESTS: dict[str, Transform] = {
    "grad": lambda f: grad(scalar(f), (0, 1))(matrices(), vectors()),
    "vjp": lambda f: vjp(f, matrices(), vectors())[1](vectors()),
    "jvp": lambda f: jvp(f, (matrices(), vectors()), (matrices(), vectors())),
    "jacrev": lambda f: jacrev(f, (0, 1))(matrices(), vectors()),
    "jacfwd": lambda f: jacfwd(f, (0, 1))(matrices(), vectors()),
    "hessian": lambda f: hessian(scalar(f), (0, 1))(matrices(), vectors()),
    "jacrev of jacrev": lambda f: jacrev(jacrev(f))(matrices(), vectors()),
    "jacrev of jacfwd": lambda f: jacrev(jacfwd(f))(matrices(), vectors()),
    "vmap": lambda f: vmap(f)(matrices(4), vectors(4)),
    "vmap of A": lambda f: vmap(f, (0, None))(matrices(4), vectors()),
    "vmap of y0, last": lambda f: vmap(f, (None, 1), 1)(matrices(), vectors(4).t()),
    "vmap of vmap": lambda f: vmap(vmap(f, (None, 0)), (0, None))(matrices(2), vectors(3)),
    "vmap of grad": lambda f: vmap(grad(scalar(f), (0, 1)))(matrices(4), vectors(4)),
    "vmap of jvp": lambda f: vmap(lambda A: jvp(f, (A, vectors()), (A, vectors())))(matrices(4)),
    "grad of vmap": lambda f: grad(lambda A: vmap(scalar(f))(A, vectors(4)).sum())(matrices(4)),
    "jvp of vmap": lambda f: jvp(lambda A: vmap(f)(A, vectors(4)), (matrices(4),), (matrices(4),)),
    "vmap of hessian": lambda f: vmap(hessian(scalar(f), 1), (0, None))(matrices(2), vectors()),
    "grad of vmap of grad": lambda f: grad(
        lambda A: vmap(grad(scalar(f), 1))(A, vectors(2)).sin().sum()
    )(matrices(2)),
}


def same(found: Any, want: Any, rtol: float = 1e-7, atol: float = 1e-8) -> None:
    torch.testing.assert_close(found, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("nest", NESTS)
def test_a_linear_system_is_transformed_like_the_matrix_exponential(nest: str) -> None:
    same(NESTS[nest](end), NESTS[nest](exact))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("nest", ["grad", "jvp", "vmap of grad", "hessian"])
def test_so_it_is_whatever_the_exact_adjoint(nest: str, name: str) -> None:
    same(NESTS[nest](lambda A, y: end(A, y, adjoint=EXACT[name])), NESTS[nest](exact))


@pytest.mark.parametrize("nest", ["jvp", "jacfwd", "vmap", "vmap of jvp"])
def test_forward_mode_and_vmap_do_not_ask_for_grad_mode(nest: str) -> None:
    with torch.no_grad():
        same(NESTS[nest](end), NESTS[nest](exact))


def test_plain_autograd_around_vmap_and_within_vmap_of_its_backward_pass() -> None:
    A = matrices(4).requires_grad_()
    y = vectors(4)
    found, want = (torch.autograd.grad(vmap(f)(A, y).sin().sum(), A) for f in (end, exact))
    same(found, want)
    one = matrices().requires_grad_()
    eye = torch.eye(3, dtype=torch.float64)
    found, want = (
        torch.autograd.grad(f(one, vectors()), one, eye, is_grads_batched=True)
        for f in (end, exact)
    )
    same(found, want)


def test_dual_numbers_without_torch_func() -> None:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(matrices(), vectors(3))
        for recording in (True, False):
            with torch.set_grad_enabled(recording):
                found = forward_ad.unpack_dual(end(dual, vectors())).tangent
                want = forward_ad.unpack_dual(exact(dual, vectors())).tangent
            assert found is not None
            same(found, want)


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
def test_times_have_derivatives(jacobian: Any) -> None:
    """Of dy/dt = t A y: y(t) = exp(A (t^2 - t0^2) / 2) y0."""
    A, y0 = matrices(), vectors()
    times = tuple(torch.tensor(t, dtype=torch.float64) for t in (0.2, 1.3, [0.2, 0.5, 0.9]))

    def solved(t0: Tensor, t1: Tensor, ts: Tensor) -> Tensor:
        save = ic.SaveAt(ts=ts, t1=True)
        return ic.solve(
            lambda t, y: t * (A @ y), y0, t0, t1, save=save, solver="dop853", **TIGHT
        ).ys

    def closed(t0: Tensor, t1: Tensor, ts: Tensor) -> Tensor:
        each = [torch.linalg.matrix_exp(A * (t**2 - t0**2) / 2) @ y0 for t in [*ts, t1]]
        return torch.stack(each)

    same(jacobian(solved, (0, 1, 2))(*times), jacobian(closed, (0, 1, 2))(*times), 1e-6, 1e-6)


def test_hessian_of_a_closed_form() -> None:
    """y' = -p y^2 has y(1) = y0 / (1 + p y0)."""
    at = torch.tensor([0.7, 1.4], dtype=torch.float64)
    found = hessian(lambda x: ic.solve(lambda t, y: -x[0] * y**2, x[1], 0.0, 1.0, **TIGHT).ys[-1])
    want = hessian(lambda x: x[1] / (1 + x[0] * x[1]))
    same(found(at), want(at))


def test_the_same_bits_as_without_a_transform_for_common_steps() -> None:
    """A single member takes the steps that it takes alone."""
    A, y0 = matrices(1), vectors()
    for options in (TIGHT, FIXED):
        alone = end(A[0], y0, **options)
        same(vmap(lambda A: end(A, y0, **options))(A)[0], alone, 1e-14, 1e-15)  # noqa: B023
        same(jvp(lambda A: end(A, y0, **options), (A[0],), (A[0],))[0], alone, 1e-14, 1e-15)  # noqa: B023


def test_fixed_steps_under_vmap_are_those_of_a_loop() -> None:
    A, y0 = matrices(5), vectors()
    found = vmap(lambda A: end(A, y0, **FIXED))(A)
    same(found, torch.stack([end(each, y0, **FIXED) for each in A]), 1e-13, 1e-14)


def test_members_go_at_the_pace_of_the_hardest() -> None:
    """Their steps are common: as many as the stiffest needs alone, or a few more."""
    rates = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    steps: list[int] = []

    def solved(rate: Tensor) -> Tensor:
        solution = ic.solve(lambda t, y: -rate * y, torch.ones(1).double(), 0.0, 1.0)
        steps.append(solution.stats.steps_accepted)
        return solution.ys[-1]

    same(vmap(solved)(rates), torch.exp(-rates).unsqueeze(1), 1e-4, 1e-5)
    solved(rates[2])
    solved(rates[0])
    together, hardest, easiest = steps
    assert easiest < hardest <= together <= hardest + 3


def test_a_member_that_is_not_finite_stops_them_all() -> None:
    def solved(start: Tensor) -> ic.Solution:
        return ic.solve(lambda t, y: y**2, start, 0.0, 1.0, throw=False)

    seen: list[ic.Status] = []
    vmap(lambda y: (seen.append(solved(y).status), y)[1])(torch.tensor([[0.1], [2.0]]))
    vmap(lambda y: (seen.append(solved(y).status), y)[1])(torch.tensor([[0.1], [0.2]]))
    assert seen[0] is not ic.Status.SUCCESS
    assert seen[1] is ic.Status.SUCCESS
    with pytest.raises(ic.NonFiniteError):
        vmap(lambda k: ic.solve(lambda t, y: k * y, torch.ones(2), 0.0, 1.0, **FIXED).ys)(
            torch.tensor([1.0, float("nan")])
        )


def test_per_sample_gradients_are_those_of_a_loop() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    weights, x, target = dict(net.named_parameters()), vectors(6), vectors(6).flip(0)

    def loss(weights: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return functional_call(net, weights, (y,))

        found: Tensor = ic.solve(field, x, 0.0, 1.0, **FIXED).ys[-1]
        return (found - target).square().sum()

    detached = {name: weight.detach() for name, weight in weights.items()}
    found = vmap(grad(loss), (None, 0, 0))(detached, x, target)
    for i in range(len(x)):
        want = torch.autograd.grad(loss(weights, x[i], target[i]), list(weights.values()))
        for name, gradient in zip(weights, want, strict=True):
            same(found[name][i], gradient, 1e-10, 1e-12)


def test_an_ensemble_of_blocks_is_a_loop_over_them() -> None:
    blocks = [
        ic.nn.ODEBlock(ic.nn.MLPField(3, 8, 1), rtol=1e-9, atol=1e-9).double() for _ in range(4)
    ]
    weights, buffers = stack_module_state(blocks)
    x = vectors(5)
    base = blocks[0]

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(base, (weights, buffers), (x,))

    found = vmap(one)(weights, buffers)
    want = torch.stack([block(x) for block in blocks])
    same(found, want, 1e-7, 1e-8)
    name, weight = next(iter(weights.items()))
    gradient = torch.autograd.grad(found.sin().sum(), weight)[0]
    leaves = [dict(block.named_parameters())[name] for block in blocks]
    same(gradient, torch.stack(torch.autograd.grad(want.sin().sum(), leaves)), 1e-6, 1e-7)


SAVED: dict[str, Callable[[ic.Solution], Any]] = {
    "ts": lambda s: s.ys,
    "steps": lambda s: s.ys,
    "t0_t1": lambda s: s.ys,
    "dense": lambda s: s(torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)),
    "fn": lambda s: s.ys,
}
SAVES: dict[str, dict[str, Any]] = {
    "ts": {"ts": torch.tensor([0.0, 0.31, 0.8], dtype=torch.float64)},
    "steps": {"steps": True},
    "t0_t1": {"t0": True, "t1": True},
    "dense": {"dense": True},
    "fn": {"ts": [0.5, 1.0], "fn": lambda t, y: {"x": t * y["x"], "n": y["v"].sum()}},
}


@pytest.mark.parametrize("name", SAVES)
@pytest.mark.parametrize("recording", [True, False], ids=["grad", "no_grad"])
def test_every_output_of_a_nested_state_with_args(name: str, recording: bool) -> None:
    """An oscillator x' = v, v' = -k x in two leaves, for several k, from one x and several v."""
    k, v = torch.tensor([0.5, 1.0, 4.0]).double(), vectors(3)[:, :2]
    x = torch.tensor([1.0, -0.5], dtype=torch.float64)

    def solved(k: Tensor, v: Tensor) -> Any:
        def field(t: Tensor, y: dict[str, Tensor], k: Tensor) -> dict[str, Tensor]:
            return {"x": y["v"], "v": -k * y["x"]}

        solution = ic.solve(
            field, {"x": x, "v": v}, 0.0, 1.0, args=(k,), save=ic.SaveAt(**SAVES[name]), **FIXED
        )
        return SAVED[name](solution)

    with torch.set_grad_enabled(recording):
        found = vmap(solved)(k, v)
        want = [solved(*each) for each in zip(k, v, strict=True)]
    for key in found:
        same(found[key], torch.stack([each[key] for each in want]), 1e-12, 1e-13)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "rms"},
        {"norm": lambda error: error.abs().amax()},
        {"rtol": torch.full((4, 1), 1e-9), "atol": torch.full((3,), 1e-9)},
    ],
    ids=["rms", "own norm", "tensors"],
)
def test_tolerances_and_norms_of_a_batch_under_vmap(options: dict[str, Any]) -> None:
    A, y0 = matrices(2), vectors(4)

    def solved(A: Tensor) -> Tensor:
        settings = {**TIGHT, **options}
        return ic.solve(lambda t, y: y @ A.t(), y0, 0.0, 1.0, **settings).ys[-1]

    same(vmap(solved)(A), torch.stack([y0 @ torch.linalg.matrix_exp(each).t() for each in A]))


def test_the_norm_of_a_batch_holds_for_each_of_its_samples_in_each_member() -> None:
    rates = torch.tensor([[1.0, 2.0], [0.5, 40.0]], dtype=torch.float64)

    def solved(rates: Tensor) -> Tensor:
        y0 = torch.ones(2, 1, dtype=torch.float64)
        return ic.solve(lambda t, y: -rates[:, None] * y, y0, 0.0, 1.0, **TIGHT).ys[-1, :, 0]

    same(vmap(solved)(rates), torch.exp(-rates))


def test_one_time_for_all_members() -> None:
    with pytest.raises(ic.InputError, match=r"t1.*common span"):
        vmap(lambda t1: ic.solve(lambda t, y: -y, vectors(), 0.0, t1).ys)(torch.rand(3))
    with pytest.raises(ic.InputError, match=r"save\.ts"):
        vmap(lambda ts: ic.solve(lambda t, y: -y, vectors(), 0, 1, save=ic.SaveAt(ts=ts)).ys)(
            torch.rand(3, 2).sort().values
        )
    with pytest.raises(ic.InputError, match="y0"):
        vmap(lambda y: ic.solve(lambda t, y: -y, y, 0.0, 1.0).ys)(
            torch.tensor([[1.0], [torch.nan]])
        )


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap of grad"])
@pytest.mark.parametrize("options", [{"adjoint": ic.Backsolve()}, {"solver": "lsoda"}])
def test_a_reverse_solve_cannot_be_transformed_and_says_so(
    transform: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ic.GradientError, match=r"Backsolve.*torch\.func"):
        NESTS[transform](lambda A, y: end(A, y, **options))


def test_under_vmap_alone_backsolve_solves() -> None:
    A = matrices(4)
    found = vmap(lambda A: end(A, vectors(), adjoint=ic.Backsolve()))(A)
    same(found, vmap(exact, (0, None))(A, vectors()))
    with pytest.raises(ic.GradientError, match="Backsolve"):  # a gradient would be lost
        vmap(lambda A: end(A, vectors(), adjoint=ic.Backsolve()))(A.requires_grad_())
    with pytest.raises(ic.InputError, match="black box"):
        vmap(lambda A: end(A, vectors(), solver="lsoda"))(A.detach())


def test_events_under_a_transform_say_that_they_cannot_be() -> None:
    def solved(y0: Tensor) -> Tensor:
        return ic.solve(lambda t, y: -y, y0, 0.0, 1.0, event=lambda t, y: y.sum() - 0.5).ys.sum()

    for transform in (grad(solved), vmap(solved), lambda y: jvp(solved, (y,), (y,))):
        with pytest.raises(ic.InputError, match="event"):
            transform(vectors(3))


def test_a_solution_of_a_transform_cannot_be_explained() -> None:
    seen: list[ic.Solution] = []
    vmap(lambda y: (seen.append(ic.solve(lambda t, y: -y, y, 0.0, 1.0)), y)[1])(vectors(2))
    with pytest.raises(ic.InputError, match="transform"):
        seen[0].explain()


def test_nothing_of_a_transform_is_left_behind() -> None:
    NESTS["vmap of grad"](end)
    A = matrices().requires_grad_()
    same(*(torch.autograd.grad(f(A, vectors()).sum(), A) for f in (end, exact)))
