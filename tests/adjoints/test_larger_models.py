"""A block inside of a larger model, trained with all that PyTorch has around it.

The gradients are those of `Direct` in the plain way, to rounding, or to the tolerance of the
continuous adjoints.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import isocline as ic
from isocline.nn import MLPField, ODEBlock

from .adjoint_cases import CONTINUOUS, DIRECT, FEW, mismatches

Gradients = dict[str, Tensor | None]


def data() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 2, dtype=torch.float64, generator=generator)


def make(adjoint: Any) -> nn.Sequential:
    torch.manual_seed(0)
    block = ODEBlock(MLPField(3, 4), adjoint=adjoint, solver="dop853", rtol=1e-9, atol=1e-9)
    return nn.Sequential(nn.Linear(2, 3), block, nn.Tanh(), nn.Linear(3, 1)).double()


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    loss: Tensor = model(x).square().sum()
    return loss


def gradients(model: nn.Module) -> Gradients:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def plain(model: nn.Module) -> Gradients:
    loss_of(model, data()).backward()
    return gradients(model)


def checkpointed_whole(model: nn.Module, reentrant: bool) -> Gradients:
    x = data().requires_grad_()  # the reentrant kind asks for an input that requires grad
    checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    return gradients(model)


def checkpointed_block(model: nn.Module, reentrant: bool) -> Gradients:
    hidden = checkpoint(model[1], model[0](data()), use_reentrant=reentrant)
    model[3](model[2](hidden)).square().sum().backward()
    return gradients(model)


def accumulated(model: nn.Module) -> Gradients:
    for row in data():
        loss_of(model, row[None]).backward()
    return gradients(model)


def with_anomaly_mode(model: nn.Module) -> Gradients:
    with torch.autograd.set_detect_anomaly(True):
        return plain(model)


def with_saved_tensors_packed(model: nn.Module) -> Gradients:
    def unpack(array: Any) -> Tensor:
        return torch.from_numpy(array)

    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().numpy().copy(), unpack):
        loss = loss_of(model, data())
    loss.backward()
    return gradients(model)


def for_some_inputs_at_a_time(model: nn.Module) -> Gradients:
    loss, leaves = loss_of(model, data()), dict(model.named_parameters())
    some, others = list(leaves)[::2], list(leaves)[1::2]
    found = torch.autograd.grad(loss, [leaves[name] for name in some], retain_graph=True)
    loss.backward(inputs=[leaves[name] for name in others])
    assert all(leaves[name].grad is None for name in some)
    return {**gradients(model), **dict(zip(some, found, strict=True))}


def with_hooks_on_the_block(model: nn.Module) -> Gradients:
    seen: list[tuple[Tensor, ...]] = []
    model[1].register_full_backward_pre_hook(lambda _, out: seen.append(out))
    model[1].register_full_backward_hook(lambda _, into, out: seen.append(into))
    plain(model)
    assert [found[0].shape for found in seen] == [(4, 3), (4, 3)]
    return gradients(model)


def scaled(model: nn.Module) -> Gradients:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler.scale(loss_of(model, data())).backward()
    scaler.unscale_(optimiser)
    scaler.step(optimiser)
    scaler.update()
    return gradients(model)


def copied_midway(model: nn.Module) -> Gradients:
    """Copies made before the backward pass share nothing with the model, and train as it does."""
    loss = loss_of(model, data())
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    loss.backward()
    first = gradients(model)
    for twin in twins:
        assert not mismatches(plain(twin), first, 1e-12)
    return first


def loaded(model: nn.Module) -> Gradients:
    """Into another model, from a file that holds tensors and nothing else."""
    plain(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = make(model[1].adjoint)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(file, weights_only=True))
    return plain(other)


def threaded(model: nn.Module) -> Gradients:
    """One graph for each thread; each hook sees every whole gradient, and no part of one."""
    seen: list[Tensor] = []
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: seen.append(gradient) or None)
    losses = [loss_of(model, row[None]) for row in data()]
    in_threads([functools.partial(loss.backward) for loss in losses])
    assert len(seen) == len(losses) * len(list(model.parameters()))
    return gradients(model)


def threaded_in_one_graph(model: nn.Module) -> Gradients:
    loss, leaves = loss_of(model, data()), list(model.parameters())
    found: list[tuple[Tensor, ...]] = []

    def once() -> None:
        found.append(torch.autograd.grad(loss, leaves, retain_graph=True))

    in_threads([once] * 4)
    means = [torch.stack(parts).mean(0) for parts in zip(*found, strict=True)]
    return dict(zip(dict(model.named_parameters()), means, strict=True))


def in_threads(tasks: list[Callable[[], None]]) -> None:
    raised: list[BaseException] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if raised:
        raise raised[0]


WAYS: dict[str, Callable[[nn.Module], Gradients]] = {
    "checkpointed_whole": functools.partial(checkpointed_whole, reentrant=False),
    "checkpointed_whole_reentrant": functools.partial(checkpointed_whole, reentrant=True),
    "checkpointed_block": functools.partial(checkpointed_block, reentrant=False),
    "checkpointed_block_reentrant": functools.partial(checkpointed_block, reentrant=True),
    **{
        way.__name__: way
        for way in (
            plain, accumulated, with_anomaly_mode, with_saved_tensors_packed,
            for_some_inputs_at_a_time, with_hooks_on_the_block, scaled, copied_midway, loaded,
            threaded, threaded_in_one_graph,
        )
    },
}  # fmt: skip


@functools.cache
def expected() -> Gradients:
    return plain(make(DIRECT))


def tolerance(name: str) -> float:
    return 1e-6 if name in CONTINUOUS else 1e-9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FEW)
def test_gradients_are_those_of_the_plain_way(name: str, way: str) -> None:
    # One row alone chooses other steps than four do: the same to the solver's tolerance.
    rtol = 1e-6 if way in ("accumulated", "threaded") else tolerance(name)
    assert not mismatches(WAYS[way](make(FEW[name])), expected(), rtol)


ALIVE: weakref.WeakSet[Any] = weakref.WeakSet()


class Marked(torch.autograd.Function):
    """Does nothing, and lets one see whether its node in the graph is alive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ALIVE.add(ctx)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def test_kept_graphs_are_given_up_with_what_autograd_saves() -> None:
    """Activation checkpointing is to save memory: the graphs of steps must not stay behind."""
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def end(y: Tensor) -> Tensor:
        return ic.solve(lambda t, y: Marked.apply(weight * y).sin(), y, 0.0, 1.0).ys[-1]

    y = end(data())
    assert len(ALIVE) > 0  # kept, where nobody asks otherwise
    del y
    assert len(ALIVE) == 0
    loss = checkpoint(end, data(), use_reentrant=False).sum()
    assert len(ALIVE) == 0
    (found,) = torch.autograd.grad(loss, weight)
    (want,) = torch.autograd.grad(end(data()).sum(), weight)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", FEW)
def test_a_jacobian_in_one_go(name: str) -> None:
    """`is_grads_batched`: many cotangents as one, except where they choose the steps."""
    model = make(FEW[name])
    y, leaves = model(data()), list(model.parameters())
    every = torch.eye(4, dtype=torch.float64).unsqueeze(-1)
    if name in CONTINUOUS:
        with pytest.raises(ic.GradientError, match="one cotangent at a time"):
            torch.autograd.grad(y, leaves, every, is_grads_batched=True)
        return
    rows = torch.autograd.grad(y, leaves, every, is_grads_batched=True, retain_graph=True)
    for index in range(4):
        want = torch.autograd.grad(y[index].sum(), leaves, retain_graph=True)
        found = [row[index] for row in rows]
        torch.testing.assert_close(found, list(want), rtol=1e-9, atol=1e-12)


def trained(model: nn.Module, optimiser: torch.optim.Optimizer, *, to_none: bool) -> Gradients:
    """The parameters after a few steps, and after them the average over the steps."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for _ in range(3):
        optimiser.zero_grad(set_to_none=to_none)
        loss_of(model, data()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimiser.step()
        average.update_parameters(model)
    loss_of(average, data())
    return {
        f"{kind}.{name}": parameter.detach()
        for kind, module in {"last": model, "average": average.module}.items()
        for name, parameter in module.named_parameters()
    }


OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, foreach=True),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01, foreach=True),
}


@pytest.mark.parametrize("to_none", [True, False], ids=["none", "zeros"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_optimisers_and_averages(optimiser: str, to_none: bool) -> None:
    found = {}
    for name in ("direct", "checkpointed", "backsolve"):
        model = make(FEW[name])
        found[name] = trained(model, OPTIMISERS[optimiser](model.parameters()), to_none=to_none)
    assert not mismatches(found["checkpointed"], found["direct"], 1e-9)
    assert not mismatches(found["backsolve"], found["direct"], 1e-5)


@pytest.mark.parametrize("name", FEW)
def test_several_blocks_share_one_field(name: str) -> None:
    """Their contributions add up, as those of a layer that is used twice."""

    def shared(adjoint: Any) -> Gradients:
        torch.manual_seed(0)
        field = MLPField(2, 4)
        options = {"adjoint": adjoint, "solver": "dop853", "rtol": 1e-9, "atol": 1e-9}
        blocks = [ODEBlock(field, t1, **options) for t1 in (0.5, 1.0)]
        model = nn.Sequential(*blocks, nn.Linear(2, 2), blocks[0]).double()
        return plain(model)

    assert not mismatches(shared(FEW[name]), shared(DIRECT), tolerance(name))


METHODS: dict[str, dict[str, Any]] = {
    "tsit5": {},
    "adams": {},
    "alf": {"dt0": 0.25, "controller": ic.Constant()},
    "radauiia3": {"dt0": 0.25},
}


@pytest.mark.parametrize("solver", METHODS)
def test_all_of_a_solve_under_activation_checkpointing(solver: str) -> None:
    """Output in between, dense output, an event, times: with methods that carry much or little."""
    weight = torch.tensor([[0.6, -1.1], [0.8, 0.3]], dtype=torch.float64, requires_grad=True)
    t1 = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def outputs(y: Tensor, t1: Tensor) -> Tensor:
        field = lambda t, y: (y @ weight).tanh() + t  # noqa: E731
        save = ic.SaveAt(ts=[0.3, 0.8], t1=True, dense=True)
        options: dict[str, Any] = {"solver": solver, **METHODS[solver]}
        through = ic.solve(field, y, 0.0, t1, save=save, **options)
        until = ic.solve(field, y, 0.0, 9.0, event=lambda t, y: y.sum() - 9.0, **options)
        return torch.cat([through.ys, through(torch.tensor([0.4])), until.ys])

    want = torch.autograd.grad(outputs(data(), t1).square().sum(), [weight, t1])
    again = checkpoint(outputs, data(), t1, use_reentrant=False)
    found = torch.autograd.grad(again.square().sum(), [weight, t1])
    torch.testing.assert_close(found, want, rtol=1e-11, atol=0)
