"""Settings of runs on time series; where their batches come from; spaces and scores."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

from isocline.data import Scaling, SeriesScaling, write_series
from isocline.irregular import IrregularBatch
from isocline.train import ConfigError, LatentOdeConfig, NeuralCdeConfig
from isocline.train.latent_ode.config import _DEFAULTS
from isocline.train.latent_ode.measure import score
from isocline.train.latent_ode.model import build_model
from isocline.train.seeding import generator
from isocline.train.series.batches import SeriesBatch, SeriesData, everything, hide, window
from isocline.train.series.config import GENERATED
from isocline.train.series.scores import Errors, class_scores
from isocline.train.series.solves import evaluating, solves_of
from isocline.train.series.sources import make_source
from isocline.train.series.space import SeriesSpace

from .series_runs import tiny_cde, tiny_latent, write_long


def test_defaults_depend_on_the_data() -> None:
    spirals = LatentOdeConfig().resolved()
    assert (spirals.latent, spirals.field, spirals.decoder) == (4, "semilinear", "linear")
    assert (spirals.encoder, spirals.encoder_hidden, spirals.kl_warmup) == ("rnn", 25, 0)
    assert (spirals.iterations, spirals.batch_size, spirals.lr) == (1500, 100, 1e-2)
    assert (spirals.clip, spirals.tol, spirals.hide, spirals.bin) == (1.0, 1e-4, 0.0, 0.0)
    assert spirals.out == Path("runs/latent-ode-spirals-latent-ode-0")
    physionet = LatentOdeConfig(data="physionet", path=Path("x"), model="gru-d").resolved()
    assert (physionet.bin, physionet.outliers, physionet.keep) == (2.0, "clip", "last")
    assert physionet.title == "gru-d on physionet"
    assert LatentOdeConfig(data="physionet", path=Path("x"), bin=0.0).resolved().bin == 0.0
    assert spirals.resolved() == spirals
    events = LatentOdeConfig(data="events").resolved()
    assert (events.field, events.intensity, events.span) == ("mlp-time", "bumps", 4.0)
    assert events.counts_events
    assert (spirals.stepping, spirals.norm) == ("joint", "rms")
    assert LatentOdeConfig(stepping="auto").resolved().norm == "max_rms"
    cde = NeuralCdeConfig(row_steps=0).resolved()
    assert (cde.solver, cde.span, NeuralCdeConfig().resolved().solver) == ("tsit5", 1.0, "bosh3")
    assert set(_DEFAULTS) == {*GENERATED, "physionet"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "moons"}, "--data moons: there is no such file or folder, and it is none of"),
        ({"data": "physionet"}, "--data physionet needs --path"),
        ({"path": Path("x")}, "--path is for --data physionet"),
        ({"bin": 1.0}, "--bin is for data of files; leave it out with spirals"),
        ({"align": True}, "--align is for data of files"),
        ({"observed": 101}, "--observed is 101, but a spiral has 100"),
        ({"observed": 0}, "--observed is 0"),
        ({"data": "events", "observed": 10}, "--observed is for --data spirals"),
        ({"hide": 1.0}, r"--hide is 1.0, but must lie in \[0, 1\)"),
        ({"windows": 0.0}, r"--windows is 0.0, but must lie in \(0, 1\]"),
        ({"windows": 0.5, "hide": 0.5}, "--windows and --hide both choose what is read"),
        ({"windows": 0.5, "model": "rnn"}, "--windows is a setting of --model latent-ode"),
        ({"events": True, "model": "rnn"}, "--events is a setting of --model latent-ode"),
        ({"data": "events", "encoder": "gru-d"}, "--encoder gru-d needs values"),
        ({"data": "events", "hide": 0.5}, "--hide is for values"),
        ({"model": "lstm"}, "--model lstm is unknown; choose one of gru-d, latent-ode, ode-rnn"),
        ({"latent": 0}, "--latent is 0"),
        ({"span": 0.0}, "--span is 0.0"),
        ({"clip": 0.0}, "--clip is 0.0"),
        ({"dropout": 1.0}, "--dropout is 1.0"),
        ({"label_weight": -1.0}, "--label-weight is -1.0"),
        ({"solver": "rk4"}, "--solver rk4 is not an adaptive solver"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"stepping": "alone"}, "--stepping alone is unknown; choose one of auto, joint, per_sam"),
        ({"stepping": "auto", "solver": "adams"}, "--stepping auto goes with an explicit solver"),
        ({"stepping": "auto", "norm": "rms"}, "--norm rms goes with --stepping joint, not auto"),
        ({"stepping": "per_sample", "model": "rnn"}, "--stepping per_sample is a setting of"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LatentOdeConfig(**settings).resolved()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "events"}, "has no classes"),
        ({"dropped": 1.0}, "--dropped is 1.0"),
        ({"row_steps": -1}, "--row-steps is -1"),
        ({"row_steps": 0, "solver": "rk4"}, "--solver rk4 is not an adaptive solver"),
        ({"solver": "rk45"}, "--solver rk45 is unknown; choose one of adams, .*bosh3"),
        ({"width": 0}, "--width is 0"),
    ],
)
def test_wrong_settings_of_classifiers_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NeuralCdeConfig(**settings).resolved()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [LatentOdeConfig, NeuralCdeConfig])
def test_settings_go_through_json(kind: type[LatentOdeConfig] | type[NeuralCdeConfig]) -> None:
    config = kind(out=Path("a/b"), data="physionet", path=Path("c.npz")).resolved()
    again = kind.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    moved = dataclasses.replace(config, path=Path("elsewhere"), pictures=False)
    assert config.differences(moved) == {}


def test_a_space_goes_through_a_checkpoint() -> None:
    scaling = SeriesScaling(
        Scaling(torch.tensor([100.0, 37.0]).double(), torch.tensor([20.0, 1.0]).double()),
        24.0,
        (torch.tensor([50.0, 30.0]).double(), torch.tensor([150.0, 44.0]).double()),
    )
    space = SeriesSpace(
        ("p", "t"), scaling, 2, 0.5, align=True, until=2.0, rates=(3.0, 4.0), gap=0.2, complete=True
    )
    again = SeriesSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again.to_dict() == space.to_dict()
    values = torch.tensor([[120.0, 38.0], [1e6, -1e6]])
    assert torch.equal(again.scaling.standardise(values), scaling.standardise(values))
    assert float(again.scaling.standardise(values)[1, 0]) == 2.5


def test_batches_follow_from_seed_iteration_and_process(tmp_path: Path) -> None:
    config = tiny_latent(tmp_path, data="stays", hide=0.3).resolved()
    source = make_source(config, config.seed)

    def data(seed: int = 0) -> SeriesData:
        return SeriesData(config, seed, source, hide(0.3), hide(0.3))

    one = data().batch(3)
    same = data().batch(3)
    assert torch.equal(one.observed.values, same.observed.values)
    assert one.held is not None
    assert same.held is not None
    assert torch.equal(one.held, same.held)
    for other in (data().batch(4), data().batch(3, 1, 2), data(1).batch(3)):
        assert not torch.equal(one.asked.lengths, other.asked.lengths)
    labels = [data().batch(iteration).labels for iteration in range(3)]
    known = source.train.labels
    assert known is not None
    joined = torch.cat([label for label in labels if label is not None])
    assert joined.sort().values.equal(known.sort().values)


def test_what_is_hidden_is_not_read() -> None:
    values = torch.randn(4, 30, 2)
    batch = IrregularBatch.regular(torch.linspace(0, 1, 30), values)
    asked = hide(0.4)(batch, generator(0))
    assert asked.held is not None
    assert asked.target is batch
    assert int(asked.observed.mask.sum()) == int((batch.mask & ~asked.held).sum())
    assert float(asked.held.float().mean()) == pytest.approx(0.4, abs=0.1)
    # No row is left of which nothing is read.
    assert bool(asked.observed.mask.any(-1)[asked.observed.present].all())
    read = set(asked.observed.values[asked.observed.mask].tolist())
    assert not read & set(batch.values[asked.held].tolist())


def test_a_window_begins_at_zero_and_asks_for_all() -> None:
    batch = IrregularBatch.regular(torch.linspace(0, 2, 50), torch.randn(6, 50, 1))
    asked = window(0.25, 2.0)(batch, generator(0))
    assert asked.target is not None
    assert torch.equal(asked.target.values, batch.values)
    times = asked.observed.times[asked.observed.present]
    assert float(times.min()) >= 0
    assert float(times.max()) <= 0.5 + 1e-6
    starts = asked.target.times[:, 0]
    assert len(starts.unique()) == 6
    assert float(starts.min()) >= -1.5


def test_parts_of_a_batch_fit_together() -> None:
    times = [torch.arange(float(rows)) for rows in (3, 9, 0, 5)]
    batch = IrregularBatch.collate(times, [torch.randn(len(time), 2) for time in times])
    whole = hide(0.5)(batch, generator(1))._replace(labels=torch.arange(4))
    parts = whole.parts(3)
    assert [len(part.observed) for part in parts] == [3, 1]
    for part, own in zip(parts, (slice(0, 3), slice(3, 4)), strict=True):
        assert part.held is not None
        assert part.held.shape == part.asked.mask.shape
        assert bool((part.held <= part.asked.mask).all())
        assert part.labels is not None
        assert part.labels.tolist() == list(range(4))[own]


def test_scores_do_not_depend_on_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_latent(tmp_path, observed=20, tol=1e-6).resolved()
    source = make_source(config, 0)
    model = build_model(config, source.space)
    batch = everything(source.test.batch, generator(0))
    whole = score(model, batch, 0)
    monkeypatch.setattr("isocline.train.latent_ode.measure.EVALUATION_BATCH", 3)
    split = score(model, batch, 0)
    assert whole.errors is not None
    assert split.errors is not None
    assert split.errors.rmse == pytest.approx(whole.errors.rmse, rel=1e-4)
    assert split.kl == pytest.approx(whole.kl, rel=1e-4)


def test_a_model_is_measured_at_its_strictest(tmp_path: Path) -> None:
    config = tiny_latent(tmp_path).resolved()
    model = build_model(config, make_source(config, 0).space)
    (core,) = solves_of(model)
    assert core.norm == "rms"
    with evaluating(model):
        assert core.norm is None
        assert not model.training
        assert not torch.is_grad_enabled()
    assert core.norm == "rms"
    assert model.training


def test_errors_count_what_is_marked() -> None:
    errors = Errors(2)
    mask = torch.tensor([[[True, False], [True, False]]])
    errors.add(torch.zeros(1, 2, 2), torch.tensor([[[3.0, 9.0], [4.0, 9.0]]]), mask)
    assert errors.rmse == pytest.approx(math.sqrt(12.5))
    assert errors.by_feature[0] == pytest.approx(math.sqrt(12.5))
    assert math.isnan(errors.by_feature[1])
    assert math.isnan(Errors(1).rmse)


def test_class_scores() -> None:
    logits = torch.randn(200, 2, generator=generator(0))
    labels = (logits[:, 1] - logits[:, 0] + torch.randn(200, generator=generator(1)) > 0).long()
    scores = class_scores(logits, labels)
    assert scores.auc == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    assert scores.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert sum(map(sum, scores.confusion)) == 200
    assert scores.confusion[0][1] == int(((labels == 0) & (logits.argmax(1) == 1)).sum())
    assert class_scores(logits, torch.zeros(200).long()).auc is None


def test_times_of_a_file_span_what_is_asked(tmp_path: Path) -> None:
    data = write_long(tmp_path / "data")
    config = tiny_latent(tmp_path / "run", data=str(data), span=3.0, bin=0.5).resolved()
    source = make_source(config, 0)
    assert max(float(time[-1]) for time in source.train.series.times) == pytest.approx(3.0)
    steps = torch.cat(source.train.series.times) * source.space.scaling.time_scale / 0.5
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert source.space.classes == 2
    values = torch.cat(source.train.series.values)[torch.cat(source.train.series.mask)]
    assert float(values.std()) == pytest.approx(1.0, abs=0.05)


def test_dropped_observations_are_the_same_each_time(tmp_path: Path) -> None:
    config = tiny_cde(tmp_path, data="stays").resolved()
    whole, one, same = (make_source(config, 0, share) for share in (0.0, 0.4, 0.4))
    assert torch.equal(one.train.batch.times, same.train.batch.times)
    kept = float(one.train.series.lengths.sum() / whole.train.series.lengths.sum())
    assert kept == pytest.approx(0.6, abs=0.05)


def test_series_of_one_subject_stay_together(tmp_path: Path) -> None:
    config = tiny_latent(tmp_path, data="stays").resolved()
    stays = make_source(config, 0).train.series
    twice = dataclasses.replace(stays, subjects=tuple(str(i // 2) for i in range(len(stays))))
    write_series(twice, tmp_path / "series.csv")
    again = tiny_latent(tmp_path / "run", data=str(tmp_path / "series.csv")).resolved()
    source = make_source(again, 0)
    parts = [set(part.series.subjects) for part in (source.train, source.validation, source.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_a_batch_moves_as_lightning_moves_it() -> None:
    from lightning.pytorch.utilities import move_data_to_device

    batch = IrregularBatch.regular(torch.linspace(0, 1, 3), torch.randn(2, 3, 1))
    moved = move_data_to_device(
        SeriesBatch(batch, labels=torch.zeros(2).long()), torch.device("cpu")
    )
    assert isinstance(moved, SeriesBatch)
    assert torch.equal(moved.observed.values, batch.values)
    assert moved.target is None
