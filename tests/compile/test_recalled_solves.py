"""A solve that comes again is prepared once, and anything that matters and changes is seen."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.compile import recall

from .compile_cases import same, states

pytestmark = pytest.mark.usefixtures("stepwise")


class Growth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([[0.5, -1.0], [0.3, 0.2]], dtype=torch.float64))
        self.share = torch.linspace(0.5, 1.5, 8, dtype=torch.float64).view(2, 4).t()[:, :1]
        self.power = 1

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.share * torch.sin(y @ self.rate) ** self.power


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "_KNOWN", {})


def check(field: nn.Module, y0: Tensor, **options: Any) -> None:
    """The compiled solve and its gradient are the uncompiled one's; by bosh3, quick to trace."""
    options.setdefault("solver", "bosh3")

    def run(fast: bool) -> list[Tensor]:
        start = y0.detach().clone().requires_grad_()
        ys = ic.solve(field, start, 0.0, 1.0, compile=fast, **options).ys
        inputs = [start, *(p for p in field.parameters() if p.requires_grad)]
        return [ys.detach(), *torch.autograd.grad(ys.square().sum(), inputs)]

    same(run(False), run(True))


def test_what_was_prepared_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    field = Growth()
    check(field, states(4, 2))

    def never(*_: Any) -> None:
        raise AssertionError("a solve was prepared anew")

    monkeypatch.setattr("isocline.compile.compiled", never)
    check(field, states(4, 2))
    with torch.no_grad():
        field.rate.mul_(0.9)  # as an optimiser does
    check(field, states(4, 2))


def replaced(field: Growth) -> None:
    field.rate = nn.Parameter(field.rate.detach() + 0.1)


def through_data(field: Growth) -> None:
    field.rate.data = field.rate.data.t()  # the same object, laid out otherwise


def data_written(field: Growth) -> None:
    field.rate.data.mul_(1.1)  # no version counter tells


def copied_tensor_written(field: Growth) -> None:
    field.share.mul_(1.3)  # it has a batch, is not contiguous, and so is handed over as a copy


def plain_number(field: Growth) -> None:
    field.power = 2


def frozen(field: Growth) -> None:
    field.rate.requires_grad_(False)


@pytest.mark.parametrize(
    "change",
    [replaced, through_data, data_written, copied_tensor_written, plain_number, frozen],
)
def test_changes_of_the_field_are_seen(change: Callable[[Growth], None]) -> None:
    field, y0 = Growth(), states(4, 2)
    check(field, y0)
    change(field)
    check(field, y0)


def test_changes_of_the_question_are_seen() -> None:
    field, y0 = Growth(), states(4, 2)
    times = torch.tensor([0.2, 0.7], dtype=torch.float64)
    rtol = torch.tensor(1e-4, dtype=torch.float64)
    for _ in range(2):
        check(field, y0, save=ic.SaveAt(ts=times), rtol=rtol)
        times += 0.1
        rtol *= 1e-3
    check(field, y0, save=ic.SaveAt(ts=times.tolist()))
    check(field, y0.t()[:, :2].t().repeat(2, 1), solver="heuneuler", norm="rms")
    with torch.no_grad():
        one = ic.solve(field, y0, 0.0, 1.0, solver="bosh3", compile=True)
        other = ic.solve(field, y0, 1.0, 0.0, solver="bosh3", compile=True)
    torch.testing.assert_close(other.ys, ic.solve(field, y0, 1.0, 0.0, solver="bosh3").ys.detach())
    assert not torch.equal(one.ys, other.ys)


def test_bad_input_is_refused_as_ever() -> None:
    field, y0 = Growth(), states(4, 2)
    check(field, y0)
    y0[1, 1] = torch.nan
    with pytest.raises(ic.InputError, match="nan at index"):
        ic.solve(field, y0, 0.0, 1.0, compile=True)
    with pytest.raises(ic.InputError, match="t1"):
        ic.solve(field, states(4, 2), 0.0, torch.inf, compile=True)


def test_a_tensor_replaced_before_the_backward_pass_is_still_there_for_it() -> None:
    found = []
    for fast in (False, True, True):
        field, start = Growth(), torch.ones(4, 2, dtype=torch.float64).requires_grad_()
        ys = ic.solve(field, start, 0.0, 1.0, solver="bosh3", compile=fast).ys
        field.share = torch.zeros(4, 1, dtype=torch.float64)
        gc.collect()
        found.append(torch.autograd.grad(ys.square().sum(), [start, field.rate]))
    for fast in found[1:]:
        same(found[0], fast)


def test_a_field_that_is_gone_is_forgotten() -> None:
    field = Growth()
    check(field, states(4, 2))
    assert recall._KNOWN
    del field
    gc.collect()
    assert not recall._KNOWN
