"""Any event shape, batch shape, dtype and span of time; contexts that broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from isocline.errors import InputError
from isocline.nn import CNF, ExactDivergence, Hutchinson, HutchPlusPlus

from .flow_cases import DTYPE, FIELDS, TIGHT, directional

RATE = 0.4
sizes = st.integers(1, 3)
events = st.lists(sizes, min_size=1, max_size=3).map(tuple)
batches = st.lists(sizes, max_size=3).map(tuple)
times = st.tuples(st.floats(-2, 2), st.floats(-2, 2)).filter(lambda ts: abs(ts[0] - ts[1]) > 1e-3)
# In a field that scales each component signs give the trace without error, and so does Hutch++.
divergences = st.sampled_from([ExactDivergence(), Hutchinson(), HutchPlusPlus(81)])


def grow(t: Tensor, z: Tensor) -> Tensor:
    return RATE * torch.cos(t) * z


def grown(t0: float, t1: float) -> float:
    """What `grow` multiplies by."""
    return math.exp(RATE * (math.sin(t1) - math.sin(t0)))


@given(events, batches, times, st.sampled_from([torch.float32, torch.float64]), divergences)
@settings(max_examples=12)
def test_any_shape_dtype_and_span(
    event: tuple[int, ...],
    batch: tuple[int, ...],
    span: tuple[float, float],
    dtype: torch.dtype,
    divergence: object,
) -> None:
    torch.manual_seed(0)
    tolerance, options = 1e-8, TIGHT
    if dtype == torch.float32:
        tolerance, options = 1e-4, {"rtol": 1e-6, "atol": 1e-6}
    flow = CNF(grow, event, t0=span[0], t1=span[1], divergence=divergence, **options).to(dtype)
    x = torch.randn(*batch, *event, dtype=dtype)
    scale = grown(*span)
    expected = Normal(0.0, torch.tensor(scale, dtype=dtype)).log_prob(x).flatten(len(batch)).sum(-1)
    with torch.no_grad():
        found, (z, log_det) = flow.log_prob(x), flow.inverse(x)
    assert found.shape == log_det.shape == batch
    assert found.dtype == log_det.dtype == z.dtype == dtype
    close = {"rtol": tolerance, "atol": tolerance * math.prod(event)}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(z, x / scale, **close)
    samples, log_density = flow.rsample_and_log_prob(batch)
    assert samples.shape == flow.sample(batch).shape == (*batch, *event)
    assert samples.dtype == log_density.dtype == flow.sample(batch).dtype == dtype
    assert log_density.shape == batch
    path = flow.trajectory(x, list(span))
    assert path.shape == (2, *batch, *event)


@pytest.mark.parametrize("event", [(1,), (), (2, 1)])
def test_a_number_of_samples_is_a_shape(event: tuple[int, ...]) -> None:
    flow = CNF(grow, event)
    assert flow.sample().shape == event
    assert flow.sample(3).shape == (3, *event)
    assert flow.sample([3, 2]).shape == flow.sample(torch.Size([3, 2])).shape == (3, 2, *event)


@pytest.mark.parametrize("batch", [(0,), (2, 0)])
def test_an_empty_batch_is_refused_by_the_callers_name(
    batch: tuple[int, ...],
) -> None:
    """As `solve` refuses it, and as torch's `Independent` does; but not as `y0`."""
    flow, x = FIELDS["planar"].flow(), torch.zeros(*batch, 2, dtype=DTYPE)
    calls: list[Callable[[], object]] = [
        lambda: flow.log_prob(x),
        lambda: flow.log_prob_and_penalty(x),
        lambda: flow(x),
        lambda: flow.trajectory(x, [1.0]),
        lambda: flow.sample(batch),
        lambda: flow.rsample_and_log_prob(batch),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"^`(x|z|n)`"):
            call()


@pytest.mark.parametrize("name", FIELDS)
def test_a_batch_is_its_samples_one_by_one(name: str) -> None:
    case = FIELDS[name]
    flow = case.flow(rtol=1e-7, atol=1e-7)
    x, contexts = case.points(2, 2), case.contexts(2, 2)
    with torch.no_grad():
        whole = flow.log_prob(x, *contexts)
        for i, j in ((0, 1), (1, 0)):
            alone = flow.log_prob(x[i, j], *(context[i, j] for context in contexts))
            assert alone.shape == ()
            torch.testing.assert_close(alone, whole[i, j], rtol=1e-5, atol=1e-5)


CONTEXTS = [
    ((3,), (), ()),
    ((3,), (5,), (5,)),
    ((1, 3), (5,), (5,)),
    ((5, 3), (5,), (5,)),
    ((5, 3), (2, 5), (2, 5)),
    ((2, 1, 3), (2, 5), (2, 5)),
    ((5, 3), (1, 5), (1, 5)),
    # The other way round: one point under several contexts.
    ((5, 3), (), (5,)),
    ((5, 3), (1,), (5,)),
    ((2, 1, 3), (5,), (2, 5)),
]


@pytest.mark.parametrize(("context_shape", "batch", "together"), CONTEXTS, ids=str)
def test_contexts_broadcast_against_the_states(
    context_shape: tuple[int, ...], batch: tuple[int, ...], together: tuple[int, ...]
) -> None:
    case = FIELDS["conditional"]
    flow = case.flow(rtol=1e-7, atol=1e-7)
    x, context = case.points(*batch), torch.randn(context_shape, dtype=DTYPE)
    wide, spread = x.expand(*together, 2), context.expand(*together, 3)
    with torch.no_grad():
        expected = flow.log_prob(wide.contiguous(), spread.contiguous())
        found = flow.log_prob(x, context)
    assert found.shape == together
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert flow(x, context).value.shape == (*together, 2)
        assert flow.trajectory(x, [1.0], context).shape == (1, *together, 2)


@pytest.mark.parametrize(
    ("n", "context_shape", "expected"),
    [
        ((), (3,), (2,)),
        (4, (3,), (4, 2)),
        ((4, 1), (5, 3), (4, 1, 5, 2)),
        ((), (6, 5, 3), (6, 5, 2)),
    ],
    ids=str,
)
def test_samples_for_each_context(
    n: object, context_shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    flow = FIELDS["conditional"].flow(rtol=1e-7, atol=1e-7)
    context = torch.randn(context_shape, dtype=DTYPE)
    assert flow.sample(n, context).shape == expected
    x, log_density = flow.rsample_and_log_prob(n, context)
    assert x.shape == expected
    torch.testing.assert_close(flow.log_prob(x, context), log_density, rtol=1e-5, atol=1e-5)
    assert flow.distribution(context).sample(torch.Size([2])).shape == (
        2,
        *context_shape[:-1],
        2,
    )


def test_a_broadcast_context_gathers_the_gradients_of_its_samples() -> None:
    case = FIELDS["conditional"]
    flow, x = case.flow(solver="rk4", dt0=0.5), case.points(4)
    context = torch.randn(3, dtype=DTYPE, requires_grad=True)
    (found,) = torch.autograd.grad(flow.log_prob(x, context).sum(), context)
    way = torch.randn(3, dtype=DTYPE)
    expected = directional(lambda: flow.log_prob(x, context).sum(), [context], [way])
    assert float(found @ way) == pytest.approx(float(expected), rel=1e-8)


def test_contexts_matter() -> None:
    flow, x = FIELDS["conditional"].flow(), torch.zeros(2, dtype=DTYPE)
    with torch.no_grad():
        one, other = (flow.log_prob(x, torch.full((3,), c, dtype=DTYPE)) for c in (0.0, 1.0))
    assert abs(float(one - other)) > 0.01


@pytest.mark.parametrize("shape", [(4, 3), (2,), (2, 4, 3)])
def test_a_context_that_does_not_broadcast_is_named(shape: tuple[int, ...]) -> None:
    flow, x = FIELDS["conditional"].flow(), torch.randn(5, 2, dtype=DTYPE)
    with pytest.raises(InputError, match=r"^`context`"):
        flow.log_prob(x, torch.randn(shape, dtype=DTYPE))


def test_a_strided_input_is_read_as_it_is() -> None:
    flow = FIELDS["images"].flow(rtol=1e-6, atol=1e-6)
    x = torch.randn(4, 4, 3, 2, dtype=DTYPE).permute(3, 2, 0, 1)
    with torch.no_grad():
        expected = flow.log_prob(x.contiguous())
        torch.testing.assert_close(flow.log_prob(x), expected)


def test_the_input_is_left_alone() -> None:
    flow, x = FIELDS["planar"].flow(), torch.randn(4, 2, dtype=DTYPE)
    before = x.clone()
    flow.log_prob(x)
    start = flow(x, t=0.0).value
    start.detach().add_(1.0)
    flow.sample(3)
    assert torch.equal(x, before)


def test_under_autocast_the_density_stays_in_float32() -> None:
    torch.manual_seed(0)
    flow = FIELDS["mlp"].flow(solver="rk4", dt0=0.25).float()
    x = torch.randn(64, 2)
    exact = flow.log_prob(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = flow.log_prob(x)
        rounded = flow(x.bfloat16()).value
        assert flow.sample(3).dtype == torch.float32
    assert found.dtype == rounded.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.1)
