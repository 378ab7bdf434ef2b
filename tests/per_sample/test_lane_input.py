"""What per-sample stepping does not take is refused with its reason, as are fields that mix."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic

Y0 = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def decay(t: Tensor, y: Tensor) -> Tensor:
    return -y


def refused(argument: str, field: Any = decay, y0: Any = Y0, **options: Any) -> str:
    t0, t1 = options.pop("t0", 0.0), options.pop("t1", 1.0)
    with pytest.raises(ic.InputError) as caught:
        ic.solve(field, y0, t0, t1, stepping="per_sample", **options)
    assert caught.value.argument == argument
    return str(caught.value)


class Attention(nn.Module):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.softmax(y @ y.T, -1) @ y


MIXING: dict[str, Any] = {
    "mean": lambda t, y: y - y.mean(0),
    "attention": Attention(),
    "batch_norm": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train(),
    "neighbour": lambda t, y: y.roll(1, 0),
    "closure": lambda t, y: torch.linspace(0.0, 1.0, 5).unsqueeze(1) * y,
    "dropout": lambda t, y: nn.functional.dropout(y, 0.5, training=True),
}


@pytest.mark.parametrize("kind", MIXING)
@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("adjoint", [None, ic.Direct(), "no_grad"])
def test_a_field_that_mixes_samples_is_refused(kind: str, count: int, adjoint: Any) -> None:
    field = MIXING[kind]
    if isinstance(field, nn.Module):
        module = field
        field = (lambda t, y: module(y)) if isinstance(module, nn.Sequential) else module
    if kind == "closure" and count != 5:
        field = lambda t, y: torch.linspace(0.1, 1.0, 2).unsqueeze(1) * y  # noqa: E731
    kinds = (ic.InputError, ic.GradientError) if kind == "dropout" else ic.InputError
    with torch.set_grad_enabled(adjoint != "no_grad"), pytest.raises(kinds, match="eval"):
        ic.solve(
            field, Y0[:count], 0.0, 1.0, stepping="per_sample",
            adjoint=None if adjoint == "no_grad" else adjoint,
        )  # fmt: skip


def test_coupling_shows_where_all_samples_start_from_one_state() -> None:
    same = Y0[:1].expand(4, 3)
    assert "PerSample" in refused("field", MIXING["mean"], same)
    assert "PerSample" in refused("field", MIXING["attention"], same)


def test_batch_norm_in_evaluation_is_welcome() -> None:
    norm = nn.BatchNorm1d(3).eval()
    found = ic.solve(lambda t, y: norm(y), Y0, 0.0, 1.0, stepping="per_sample")
    joint = ic.solve(lambda t, y: norm(y), Y0, 0.0, 1.0)
    assert torch.allclose(found.ys, joint.ys, rtol=1e-4)


def test_settings_that_it_does_not_take() -> None:
    assert "unsqueeze" in refused("y0", y0=torch.ones(3))
    assert '"joint"' in refused("solver", solver="impliciteuler", dt0=0.1)
    assert "Tsit5" in refused("solver", solver="lsoda", adjoint=ic.Direct())
    assert "Checkpointed()" in refused("adjoint", adjoint=ic.Interpolated())
    assert "5 samples" in refused("save.fn", save=ic.SaveAt(fn=lambda t, y: y.sum(0)))
    assert "float" in refused("save.fn", save=ic.SaveAt(fn=lambda t, y: {"mean": 0.5}))
    refused("norm", norm="rms")
    refused("norm", norm=lambda y: y.norm())
    refused("rtol", rtol=ic.PerSample(torch.ones(4)))
    refused("rtol", rtol=-1.0)
    refused("dt0", dt0=ic.PerSample(torch.zeros(5)))
    refused("dt0", dt0=ic.PerSample(0.1))
    refused("max_steps", max_steps=0)
    refused("t0", t0=torch.zeros(4))
    refused("t1", t1=torch.tensor([1.0, 2.0, torch.nan, 1.0, 1.0]))
    refused("args[0]", args=(ic.PerSample(torch.ones(4)),))
    refused("args[1]", args=(1.0, ic.PerSample(3.0)))


def test_output_times_that_do_not_fit() -> None:
    def ts(value: Any, **options: Any) -> str:
        return refused("save.ts", save=ic.SaveAt(ts=value, **options))

    ts(torch.ones(4, 2))
    ts([torch.ones(1)] * 4)
    ts("0.5")
    ts([])
    assert "sample 2" in ts([torch.tensor([0.5])] * 2 + [torch.tensor([1.5])] * 3)
    assert "0.75 followed by 0.25" in ts(torch.tensor([0.75, 0.25]))
    ts(torch.full((5, 2), torch.nan))
    refused("save.lengths", save=ic.SaveAt(ts=torch.ones(5, 2), lengths=[1, 2, 3, 1, 1]))
    refused("save.lengths", save=ic.SaveAt(ts=torch.ones(5, 2), lengths=[1.0] * 5))


def test_a_controller_of_ones_own_and_an_unknown_stepping() -> None:
    class Own:
        adaptive, min_step, max_step, stops = True, 0.0, 1.0, ()

        def init(self, error_order: int) -> None: ...

        def decide(self, h: float, ratio: float, state: None) -> None: ...

    refused("controller", controller=Own())
    with pytest.raises(ic.InputError, match="per_sample"):
        ic.solve(decay, Y0, 0.0, 1.0, stepping="each")  # type: ignore[arg-type]
    with pytest.raises(ic.InputError, match=r"save\.lengths"):
        ic.solve(decay, Y0, 0.0, 1.0, save=ic.SaveAt(ts=[0.5], lengths=[1] * 5))


def test_transforms_are_refused() -> None:
    with pytest.raises(ic.InputError, match="joint"):
        torch.func.vmap(lambda y: ic.solve(decay, y, 0.0, 1.0, stepping="per_sample").ys)(
            Y0.unsqueeze(0)
        )


def test_marked_arguments_reach_a_joint_solve_whole() -> None:
    rate = torch.arange(5.0)
    found = ic.solve(
        lambda t, y, rate: -rate.unsqueeze(1) * y, Y0, 0.0, 1.0, args=(ic.PerSample(rate),)
    )
    assert torch.allclose(found.ys[0], Y0 * torch.exp(-rate).unsqueeze(1), rtol=1e-4)


def test_tolerances_and_first_steps_of_each_sample() -> None:
    y0 = torch.ones(3, 2, dtype=torch.float64)
    tol = torch.tensor([1e-3, 1e-6, 1e-9], dtype=torch.float64)
    field = lambda t, y: y.flip(1) * torch.tensor([1.0, -4.0])  # noqa: E731
    found = ic.solve(
        field, y0, 0.0, 5.0, rtol=ic.PerSample(tol), atol=ic.PerSample(tol), stepping="per_sample"
    )
    assert found.stats.samples is not None
    steps = found.stats.samples.steps_accepted.tolist()
    assert steps == sorted(steps)
    assert steps[2] > 4 * steps[0]
    for sample, own in enumerate(tol.tolist()):
        alone = ic.solve(field, y0[:1], 0.0, 5.0, rtol=own, atol=own, stepping="per_sample")
        assert torch.equal(alone.ys[0, 0], found.ys[0, sample])
    first = ic.PerSample(torch.tensor([0.1, 0.01, 0.001]))
    steps = ic.solve(
        field, y0, 0.0, 1.0, dt0=first, stepping="per_sample", save=ic.SaveAt(steps=True)
    )
    assert torch.allclose(steps.ts[0], first.value.double())
