"""Flows as modules: state, copies, settings, what is printed."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

import isocline as ic
from isocline.errors import InputError
from isocline.nn import (
    CNF,
    ClosedForm,
    ConcatSquashField,
    ExactDivergence,
    FlowMatching,
    HamiltonianField,
    Hutchinson,
    KineticEnergy,
    PlanarField,
)

from .flow_cases import DTYPE, FIELDS, Learnt

NAMES = [name for name in FIELDS if name != "images"]


def saved_and_loaded(flow: CNF) -> CNF:
    stream = io.BytesIO()
    torch.save(flow, stream)
    stream.seek(0)
    found: CNF = torch.load(stream, weights_only=False)
    return found


def pickled(flow: CNF) -> CNF:
    found: CNF = pickle.loads(pickle.dumps(flow))
    return found


# --- state and copies ----------------------------------------------------------------------------

FIELDS_WITHOUT_LOCALS = {
    "planar": lambda: PlanarField(2, 3, 4),
    "concat_squash": lambda: ConcatSquashField(2, 4),
    "hamiltonian": lambda: HamiltonianField(2, 4),
}


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved_and_loaded])
@pytest.mark.parametrize("name", FIELDS_WITHOUT_LOCALS)
def test_copies_are_the_same_and_their_own(name: str, copied: Callable[[CNF], CNF]) -> None:
    field = FIELDS_WITHOUT_LOCALS[name]()
    options: dict[str, Any] = {"base": Learnt((2,)), "divergence": Hutchinson("gaussian", 3)}
    flow = CNF(field, 2, regularizers=[KineticEnergy(0.1)], null_context=torch.ones(3), **options)
    flow.eval()
    x = torch.randn(4, 2)
    expected = flow.log_prob(x)
    other = copied(flow)
    assert other.stats is None
    assert flow.stats is not None
    assert torch.equal(other.log_prob(x), expected)
    assert other.divergence == flow.divergence
    assert other.regularizers == flow.regularizers
    with torch.no_grad():
        other.base.mean.add_(1.0)
        next(other.field.parameters()).add_(1.0)
    assert torch.equal(flow.log_prob(x), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_goes_there_and_back(name: str) -> None:
    case = FIELDS[name]
    flow, other = (case.flow(seed=i, rtol=1e-4, atol=1e-4) for i in (0, 1))
    x, contexts = case.points(3), case.contexts(3)
    assert not torch.equal(flow.log_prob(x, *contexts), other.log_prob(x, *contexts))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(flow.log_prob(x, *contexts), other.log_prob(x, *contexts))
    assert all(key.startswith("field.") for key in flow.state_dict())


def test_what_belongs_to_the_state() -> None:
    """Parameters of field and base, a null context that was given; no constants."""
    flow = CNF(PlanarField(2, 3), 2, base=Learnt((2,)), null_context=torch.ones(3))
    keys = set(flow.state_dict())
    assert {"base.mean", "base.log_scale", "null_context"} < keys
    assert all(key.startswith(("field.", "base.", "null_context")) for key in keys)
    names = dict(flow.named_parameters())
    assert {"base.mean", "base.log_scale"} < set(names)


def test_a_null_context_that_is_learnt_is_a_parameter() -> None:
    null = nn.Parameter(torch.zeros(3))
    flow = CNF(ConcatSquashField(2, 4, context=3), 2, null_context=null)
    assert any(parameter is null for parameter in flow.parameters())


def test_a_learnt_null_context_is_trained_by_flow_matching() -> None:
    null = torch.zeros(3, requires_grad=True)
    flow = CNF(ConcatSquashField(2, 4, context=3), 2)
    flow.null_context = null
    FlowMatching(flow, context_dropout=0.9)(torch.randn(64, 2), torch.ones(64, 3)).backward()
    assert null.grad is not None
    assert float(null.grad.abs().max()) > 0


def test_to_another_dtype_and_back() -> None:
    torch.manual_seed(0)
    flow, x = CNF(ConcatSquashField(2, 8), 2, rtol=1e-6, atol=1e-6), torch.randn(4, 2)
    single = flow.log_prob(x)
    assert flow.sample(3).dtype == single.dtype == torch.float32
    double = flow.double().log_prob(x.double())
    assert double.dtype == flow.sample(3).dtype == DTYPE
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-4)
    assert flow.distribution().sample().dtype == DTYPE
    assert flow.float().log_prob(x).dtype == torch.float32


# --- settings ------------------------------------------------------------------------------------


def test_settings_change_after_training() -> None:
    flow, x = (
        FIELDS["planar"].flow(solver="tsit5", rtol=1e-3, atol=1e-3),
        torch.randn(4, 2).double(),
    )
    rough = flow.log_prob(x)
    loose = flow.nfe_forward
    flow.rtol = flow.atol = 1e-9
    exact = flow.log_prob(x)
    assert flow.nfe_forward > 2 * loose
    assert 0 < float((rough - exact).detach().abs().max()) < 0.1
    flow.solver, flow.dt0 = "rk4", 0.1
    torch.testing.assert_close(flow.log_prob(x), exact, rtol=1e-2, atol=1e-2)
    assert flow.nfe_forward <= 42
    flow.divergence = Hutchinson()
    assert not torch.equal(flow.log_prob(x), flow.log_prob(x))


def test_the_norm_of_the_error_can_be_chosen() -> None:
    """One hard sample among many easy ones decides the steps, unless the norm averages over all."""
    flow = CNF(lambda t, z: torch.sin(5 * z), 1, rtol=1e-6, atol=1e-6).to(DTYPE)
    x = torch.zeros(1000, 1, dtype=DTYPE)
    x[0] = 0.4
    flow.log_prob(x)
    strict = flow.nfe
    seen: list[tuple[int, ...]] = []

    def largest(state: tuple[Tensor, ...]) -> Tensor:
        seen.extend(tuple(part.shape) for part in state)
        return torch.cat([part.flatten() for part in state]).abs().max()

    for norm, fewer in (("rms", True), (largest, False)):
        with flow.using(norm=norm):
            flow.log_prob(x)
        assert (flow.nfe < strict) is fewer
    assert set(seen) == {(1000, 1), (1000,)}


def test_using_changes_and_restores() -> None:
    flow, x = FIELDS["planar"].flow(rtol=1e-3, atol=1e-3), torch.randn(4, 2).double()
    before = flow.log_prob(x)
    with flow.using(rtol=1e-9, atol=1e-9, divergence=ExactDivergence()) as inside:
        assert inside is flow
        assert (flow.rtol, flow.divergence) == (1e-9, ExactDivergence())
        assert not torch.equal(flow.log_prob(x), before)
        with flow.using(rtol=1e-1):
            assert flow.rtol == 1e-1
        assert flow.rtol == 1e-9
    assert (flow.rtol, flow.atol, flow.divergence) == (1e-3, 1e-3, ClosedForm())
    assert torch.equal(flow.log_prob(x), before)


def _interrupted(flow: CNF) -> None:
    with flow.using(solver="dopri5", rtol=1e-9, t1=3.0):
        raise KeyError


def test_using_restores_after_an_exception() -> None:
    flow = CNF(PlanarField(2, 3), 2)
    with pytest.raises(KeyError):
        _interrupted(flow)
    assert (flow.solver, flow.rtol, flow.t1) == ("tsit5", 1e-5, 1.0)


@pytest.mark.parametrize("name", ["tolerance", "nfe", "stats", "log_prob"])
def test_using_what_is_no_setting_is_refused(name: str) -> None:
    flow = CNF(PlanarField(2, 3), 2)
    with pytest.raises(InputError, match=name), flow.using(rtol=1e-9, **{name: 1}):
        pass
    assert flow.rtol == 1e-5
    assert name not in vars(flow)


@pytest.mark.parametrize("name", ["base", "field"])
def test_base_and_field_can_be_exchanged(name: str) -> None:
    """For what the constructor takes, be it a module or not."""
    flow, x = CNF(PlanarField(2, 3).double(), 2).double(), torch.randn(4, 2, dtype=DTYPE)
    before = flow.log_prob(x)
    wide = MultivariateNormal(torch.zeros(2, dtype=DTYPE), 4 * torch.eye(2, dtype=DTYPE))
    value = wide if name == "base" else lambda t, z: 0.5 * z
    with flow.using(**{name: value}, divergence=ExactDivergence()):
        assert not torch.allclose(flow.log_prob(x), before)
    assert torch.equal(flow.log_prob(x), before)


@pytest.mark.parametrize("name", ["planar", "conditional"])
def test_exact_in_evaluation(name: str) -> None:
    case, fast = FIELDS[name], {"rtol": 1e-6, "atol": 1e-6}
    flow, contexts = case.flow(divergence=Hutchinson("gaussian"), **fast), case.contexts(5)
    x = case.points(5)
    exact = case.flow(**fast).log_prob(x, *contexts)
    assert torch.equal(flow.eval().log_prob(x, *contexts), exact)
    flow.exact_in_eval = False
    assert not torch.equal(flow.log_prob(x, *contexts), flow.log_prob(x, *contexts))
    flow.train().exact_in_eval = True
    assert not torch.equal(flow.log_prob(x, *contexts), flow.log_prob(x, *contexts))


def test_evaluations_are_counted() -> None:
    flow = CNF(PlanarField(2, 3), 2, adjoint=ic.Checkpointed(slots=1))
    assert (flow.nfe, flow.stats) == (0, None)
    flow.log_prob(torch.randn(4, 2)).sum().backward()
    assert flow.nfe_forward > 0
    assert flow.nfe_backward > 0
    assert flow.nfe == flow.nfe_forward + flow.nfe_backward


def test_what_is_printed() -> None:
    flow = CNF(PlanarField(2, units=7), 2, t0=0.5, divergence=Hutchinson(), rtol=1e-4)
    shown = repr(flow)
    for part in ("(2,)", "t0=0.5", "t1=1.0", "Hutchinson", "solver='tsit5'", "rtol=0.0001"):
        assert part in shown
    assert "features=2, units=7" in shown
    assert "ConcatSquash" in repr(CNF(ConcatSquashField(2, 4), 2))


def test_bases_of_the_users_choice() -> None:
    x, field = torch.randn(4, 2, dtype=DTYPE), FIELDS["planar"].field()
    expected = CNF(field, 2).to(DTYPE).log_prob(x)
    zeros, eye = torch.zeros(2, dtype=DTYPE), torch.eye(2, dtype=DTYPE)
    for base in (
        MultivariateNormal(zeros, eye),
        Independent(Normal(zeros, 1.0), 1),
        lambda: Independent(Normal(zeros, 1.0), 1),
    ):
        flow = CNF(field, 2, base=base)
        torch.testing.assert_close(flow.log_prob(x), expected)
        assert flow.sample(3).shape == (3, 2)


def test_a_closed_form_that_the_field_lacks_is_refused_when_it_is_set_later() -> None:
    flow = CNF(ConcatSquashField(2, 4), 2)
    with flow.using(divergence=ClosedForm()), pytest.raises(InputError, match="`divergence`"):
        flow.log_prob(torch.zeros(3, 2))
