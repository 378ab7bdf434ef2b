"""Gradients of densities, samples and penalties against central differences, by every adjoint."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import isocline as ic
from isocline.nn import CNF, ExactDivergence, Hutchinson, HutchPlusPlus, JacobianNorm, KineticEnergy

from .flow_cases import ADJOINTS, CLOSED, DTYPE, FIELDS, STEADY, Learnt, directional

ACCURATE = {"solver": "dop853", "rtol": 1e-9, "atol": 1e-9}

# Of each kind of field; the divergence None is the flow's own choice.
CASES: dict[str, tuple[str, object]] = {
    "planar": ("planar", None),
    "planar_exact": ("planar", ExactDivergence()),
    "conditional": ("conditional", None),
    "hutchinson": ("conditional", Hutchinson()),
    "hutch++": ("conditional", HutchPlusPlus(6)),  # in two dimensions it is exact
    "hamiltonian": ("hamiltonian", None),
    "images": ("images", Hutchinson("gaussian")),
}


class Setting:
    """A flow over a learnt base, with inputs that all require grad; the same on every call."""

    def __init__(self, case: str, **settings: object) -> None:
        name, divergence = CASES[case]
        field = FIELDS[name]
        base = Learnt(field.shape)
        self.flow: CNF = field.flow(base=base, divergence=divergence, t0=0.2, t1=0.9, **settings)
        self.x = field.points(3).requires_grad_()
        self.contexts = tuple(context.requires_grad_() for context in field.contexts(3))
        named = {"x": self.x, **{f"context{i}": c for i, c in enumerate(self.contexts)}}
        self.tensors: dict[str, Tensor] = {**named, **dict(self.flow.named_parameters())}

    def density(self) -> Tensor:
        torch.manual_seed(5)  # the same noise every time
        return self._weighed(self.flow.log_prob(self.x, *self.contexts))

    def sampled(self) -> Tensor:
        torch.manual_seed(5)
        x, log_density = self.flow.rsample_and_log_prob(
            () if self.contexts else (3,), *self.contexts
        )
        again = self.flow.rsample((2,) if self.contexts else (6,), *self.contexts)
        return x.sin().sum() + self._weighed(log_density) + again.cos().sum()

    def penalised(self) -> Tensor:
        torch.manual_seed(5)
        log_density, penalty = self.flow.log_prob_and_penalty(self.x, *self.contexts)
        return self._weighed(log_density) + self._weighed(penalty.square())

    @staticmethod
    def _weighed(values: Tensor) -> Tensor:
        return (values * torch.tensor([1.0, -0.6, 1.7], dtype=DTYPE)).sum()


def direction_like(name: str, tensor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(len(name))
    return torch.randn(tensor.shape, dtype=DTYPE, generator=generator)


def differences(setting: Setting, function: Callable[[], Tensor]) -> dict[str, float]:
    """Of every tensor, along one direction."""
    return {
        name: float(directional(function, [tensor], [direction_like(name, tensor)]))
        for name, tensor in setting.tensors.items()
    }


@functools.cache
def true_slopes(case: str, what: str) -> dict[str, float]:
    setting = Setting(case, **STEADY, **REGULARIZED.get(what, {}))
    return differences(setting, getattr(setting, what))


def found_slopes(setting: Setting, what: str) -> dict[str, float]:
    value = getattr(setting, what)()
    tensors = setting.tensors
    found = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
    return {
        name: 0.0 if gradient is None else float((gradient * direction_like(name, tensor)).sum())
        for (name, tensor), gradient in zip(tensors.items(), found, strict=True)
    }


REGULARIZED = {"penalised": {"regularizers": (KineticEnergy(0.4), JacobianNorm(0.3))}}
EXACTLY = [name for name in ADJOINTS if name != "backsolve"]


@pytest.mark.parametrize(
    ("adjoint", "case"),
    [
        (adjoint, case)
        for adjoint in EXACTLY
        for case in (CASES if adjoint == "checkpointed" else ("planar_exact", "conditional"))
    ],
)
def test_gradients_of_the_density(adjoint: str, case: str) -> None:
    """To points, context, and the parameters of field and base."""
    found = found_slopes(Setting(case, adjoint=ADJOINTS[adjoint], **STEADY), "density")
    assert found == pytest.approx(true_slopes(case, "density"), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("case", ["planar", "conditional"])
def test_gradients_with_steps_of_their_own_length(case: str) -> None:
    """By backsolve, against differences; and the default, which a few ulps of step size disturb."""
    inputs = Setting(case, **ACCURATE), Setting(case, adjoint=ic.Backsolve(), **ACCURATE)
    exact, backsolve = (found_slopes(setting, "density") for setting in inputs)
    assert backsolve == pytest.approx(exact, rel=1e-6, abs=1e-6)
    setting = inputs[0]
    setting.flow.rtol = setting.flow.atol = 1e-12
    for name in ("x", next(name for name in exact if name.startswith("field"))):
        tensor = setting.tensors[name]
        with torch.no_grad():
            true = directional(setting.density, [tensor], [direction_like(name, tensor)])
        assert exact[name] == pytest.approx(float(true), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("case", ["planar", "conditional"])
@pytest.mark.parametrize("adjoint", EXACTLY)
def test_gradients_of_samples(adjoint: str, case: str) -> None:
    setting = Setting(case, adjoint=ADJOINTS[adjoint], **STEADY)
    del setting.tensors["x"]
    found = found_slopes(setting, "sampled")
    expected = {name: true_slopes(case, "sampled")[name] for name in found}
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("case", ["planar_exact", "hutchinson"])
@pytest.mark.parametrize("adjoint", ["checkpointed", "no_graphs", "direct"])
def test_gradients_of_the_penalties(adjoint: str, case: str) -> None:
    options = REGULARIZED["penalised"]
    setting = Setting(case, adjoint=ADJOINTS[adjoint], **STEADY, **options)
    found = found_slopes(setting, "penalised")
    assert found == pytest.approx(true_slopes(case, "penalised"), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("case", ["planar_exact", "conditional"])
@pytest.mark.parametrize("adjoint", ["checkpointed", "no_graphs", "direct"])
def test_the_score_can_be_differentiated(adjoint: str, case: str) -> None:
    """Score matching needs the second derivative of the density."""
    setting = Setting(case, adjoint=ADJOINTS[adjoint], **STEADY)
    (score,) = torch.autograd.grad(setting.density(), setting.x, create_graph=True)
    weight = next(setting.flow.field.parameters())
    (found,) = torch.autograd.grad(score.square().sum(), weight)

    def size() -> Tensor:
        with torch.enable_grad():
            (score,) = torch.autograd.grad(setting.density(), setting.x)
        return score.square().sum()

    way = torch.randn_like(weight)
    expected = float(directional(size, [weight], [way]))
    assert float((found * way).sum()) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_backsolve_refuses_the_second_derivative() -> None:
    setting = Setting("planar_exact", adjoint=ic.Backsolve(), **STEADY)
    (score,) = torch.autograd.grad(setting.density(), setting.x, create_graph=True)
    with pytest.raises(ic.GradientError, match="Checkpointed"):
        score.square().sum().backward()


@pytest.mark.parametrize("name", ["planar", "conditional", "hamiltonian", "mlp"])
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_nothing_is_recorded_when_nothing_may_be(guard: type, name: str) -> None:
    case = FIELDS[name]
    flow, contexts = case.flow(rtol=1e-4, atol=1e-4), case.contexts(3)
    x = case.points(3).requires_grad_()
    recorded = flow.log_prob(x, *contexts)
    with guard():
        log_density = flow.log_prob(x, *contexts)
        with_penalty = flow.log_prob_and_penalty(x, *contexts)
        samples = flow.rsample(() if contexts else 3, *contexts)
        assert flow.distribution(*contexts).sample().shape[-len(case.shape) :] == case.shape
    for tensor in (log_density, *with_penalty, samples):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None
    torch.testing.assert_close(log_density, recorded.detach(), rtol=1e-12, atol=1e-12)
    assert recorded.requires_grad
    assert not flow.sample(() if contexts else 3, *contexts).requires_grad
    # What inference mode left behind must not spoil a training step.
    flow.log_prob(x, *contexts).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", CLOSED)
def test_every_parameter_of_the_field_is_reached(name: str) -> None:
    flow = FIELDS[name].flow(rtol=1e-6, atol=1e-6)
    flow.log_prob(FIELDS[name].points(4)).sum().backward()
    reached = {key: parameter.grad for key, parameter in flow.named_parameters()}
    untouched = [key for key, gradient in reached.items() if gradient is None]
    # The Hamiltonian's last bias is a constant of the energy.
    assert untouched in ([], ["field.energy.layers.4.bias"])


def test_a_context_made_by_an_encoder_hands_its_gradient_on() -> None:
    encoder = torch.nn.Linear(4, 3).to(DTYPE)
    case = FIELDS["conditional"]
    flow, features = case.flow(**STEADY), torch.randn(5, 4, dtype=DTYPE)

    def loss() -> Tensor:
        return flow.log_prob(case.points(5), encoder(features)).sum()

    (found,) = torch.autograd.grad(loss(), encoder.weight)
    way = torch.randn_like(found)
    expected = float(directional(loss, [encoder.weight], [way]))
    assert float((found * way).sum()) == pytest.approx(expected, rel=1e-8)
