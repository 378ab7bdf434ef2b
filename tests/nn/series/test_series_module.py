"""Models as modules: copies, state dicts, types, lower precision, and modes without gradients."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import isocline as ic
from isocline.irregular import IrregularBatch
from isocline.nn import (
    RNN,
    Gaussian,
    LatentODE,
    RecurrentEncoder,
    RecurrentForecaster,
    SemilinearField,
)
from isocline.nn.series import SeriesClassifier

from .series_cases import (
    HIDDEN,
    RECURRENCES,
    TIGHT,
    forecaster,
    latent_ode,
    noise_for,
    ragged,
    recurrence,
    stirred,
)

LOOSE = {"solver": "tsit5", "rtol": 1e-4, "atol": 1e-4}
KINDS = ("latent", "forecaster", "classifier")


def made(kind: str, reads: str) -> nn.Module:
    if kind == "latent":
        return latent_ode(reads, "learnt", 1, **LOOSE)
    return (
        forecaster(reads)
        if kind == "forecaster"
        else stirred(SeriesClassifier(recurrence(reads), 3, width=4, dropout=0.2))
    )


def answer(model: nn.Module, batch: IrregularBatch) -> Tensor:
    if isinstance(model, LatentODE):
        return model.elbo(batch, noise=noise_for(batch).to(batch.values)).value()
    if isinstance(model, RecurrentForecaster):
        return model.log_likelihood(batch)
    return model(batch)


@pytest.mark.parametrize("reads", RECURRENCES)
@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_state_dicts(kind: str, reads: str) -> None:
    model, batch = made(kind, reads).eval(), ragged(until=2.0)
    first = answer(model, batch)
    first.sum().backward()
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh = made(kind, reads).eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        assert torch.equal(answer(other, batch), first)
    if isinstance(model, LatentODE):
        assert copy.deepcopy(model).stats is None
    assert repr(model)


@pytest.mark.parametrize("reads", RECURRENCES)
@pytest.mark.parametrize("kind", KINDS)
def test_lower_precision(kind: str, reads: str) -> None:
    """float32, and autocast, under which states and divergences stay in float32."""
    model = made(kind, reads).eval()
    exact = answer(model, ragged(until=2.0)).detach()
    model, batch = model.float(), ragged(until=2.0).to(dtype=torch.float32)
    plain = answer(model, batch)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain.double(), exact, rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        rough = answer(model, batch)
        if isinstance(model, LatentODE):
            elbo = model.elbo(batch)
            for part in (elbo.kl, elbo.posterior.loc, elbo.posterior.scale, elbo.log_likelihood):
                assert part.dtype == torch.float32
            assert model.predict(batch, batch.times, samples=2).mean.isfinite().all()
    torch.testing.assert_close(rough.float(), plain, rtol=0.3, atol=0.3)
    rough.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert bool(parameter.grad.isfinite().all())


def test_an_ode_rnn_solves_in_float32_under_autocast() -> None:
    """The cell may answer in bfloat16, as on a GPU; small increments would be lost in it."""
    inner = recurrence("ode_rnn").float()
    memory = torch.ones(2, HIDDEN, dtype=torch.bfloat16), torch.zeros(2)
    with torch.autocast("cpu", torch.bfloat16):
        moved, _ = inner.advance(memory, torch.tensor([0.5, 0.1]))
    assert moved.dtype == torch.float32


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_recorded_when_nothing_may_be(kind: str, guard: type) -> None:
    model, batch = made(kind, "ode_rnn").eval(), ragged(until=2.0)
    recorded = answer(model, batch)
    with guard():
        found = answer(model, batch)
    assert not found.requires_grad
    torch.testing.assert_close(found, recorded.detach(), rtol=1e-10, atol=1e-10)
    # What inference mode left behind must not spoil a training step.
    answer(model, batch).sum().backward()


def test_settings_may_be_changed_at_any_time() -> None:
    model, batch = latent_ode(), ragged()
    noise = noise_for(batch)
    exact = model.elbo(batch, noise=noise).value()
    model.solver, model.rtol, model.atol = "tsit5", 1e-3, 1e-3
    model.encoder.recurrence.eval()
    rough = model.elbo(batch, noise=noise).value()
    assert model.rtol != TIGHT["rtol"]
    assert 0 < float((rough - exact).detach().abs().max()) < 0.1


def test_counts_of_a_pass() -> None:
    settings = {**LOOSE, "adjoint": ic.Backsolve()}
    model, batch = latent_ode("gru_dt", "gaussian", 1, **settings), ragged(until=2.0)
    assert (model.nfe_forward, model.nfe_backward) == (0, 0)
    model.elbo(batch).value().sum().backward()
    assert model.nfe_forward > 0
    assert model.nfe_backward > 0
    before = model.nfe_forward
    model.elbo(batch, noise=noise_for(batch))
    assert model.nfe_forward < 2 * before
    assert model.nfe_backward == 0


def test_a_short_training_learns_the_noise_and_the_paths() -> None:
    """Oscillations of any phase, a third of the values missing: the noise turns out small."""
    torch.manual_seed(0)
    times, phases = torch.linspace(0.0, 2.0, 12), torch.rand(40, 1)
    waves = torch.stack([torch.sin(3 * times + phases), torch.cos(3 * times + phases)], -1)
    seen = waves.where(torch.rand(waves.shape) < 0.7, torch.nan)
    batch = IrregularBatch.regular(times, seen)
    encoder, noise = RecurrentEncoder(RNN(2, 10), 3), Gaussian(2, 0.5, learn=True)
    settings = {"solver": "midpoint", "dt0": 0.1, "rtol": 1e-3, "atol": 1e-3}
    model = LatentODE(encoder, SemilinearField(3, 0), nn.Linear(3, 2), noise, **settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for _ in range(80):
        loss = -model.elbo(batch).value().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert float(noise.std.detach().max()) < 0.45
    with torch.no_grad():
        error = (model.reconstruct(batch).mean - waves).square().mean().sqrt()
    assert float(error) < 0.45
