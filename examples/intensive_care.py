"""Mortality and missing values on PhysioNet 2012: four ways to read clinical series.

Set A of the challenge (read by `read_physionet`, as the original folder or `set-a.npz`), split by
stay into 80 % to learn from and 20 % to be judged by, three times. Deaths in hospital are told by a
latent ODE with a classifier on its latent state, by an ODE-RNN, by GRU-D, and by logistic
regression on summaries. Then half of each test stay's rows is hidden and asked for, of models
trained for that. The weights are the last, and nothing is chosen on the test part.

    python examples/intensive_care.py path/to/set-a.npz --out runs/stays
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from keep import Result, kept
from rich.progress import track
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from isocline import Direct, nn
from isocline.data import IrregularBatch, SeriesSet, fit_scaling, read_physionet, split_series

DESCRIPTORS = ("Age", "Gender", "Height")
# What spans orders of magnitude is taken as a logarithm.
SKEWED = (
    *("ALP", "ALT", "AST", "Bilirubin", "BUN", "Creatinine", "Glucose", "K", "Lactate", "Mg"),
    *("PaCO2", "PaO2", "Platelets", "TroponinI", "TroponinT", "Urine", "WBC"),
)
BATCH, DAY_HALF = 64, 12.0
EPOCHS = {"mortality": 12, "interpolation": 24}
MODELS = ("latent ODE", "ODE-RNN", "GRU-D")
HOURS = {"latent ODE": 2.0, "ODE-RNN": 2.0, "GRU-D": 1.0}
RATES = {"latent ODE": 5e-3, "ODE-RNN": 5e-3, "GRU-D": 3e-3}
LATENT = 16


def load(path: Path) -> SeriesSet:
    """The stays, with logarithms, and with what was noted at admission in every row."""
    stays = read_physionet(path)
    for name, text in stays.reading.summary().items():
        print(f"{name}: {text}")
    known = [name for name, count in zip(stays.features, stays.observed, strict=True) if count > 0]
    stays = stays.only(known)
    skewed = torch.tensor([name in SKEWED for name in known])
    noted = torch.tensor([name in DESCRIPTORS for name in known])
    values, mask = [], []
    for value, seen in zip(stays.values, stays.mask, strict=True):
        logs = torch.where(skewed, value.clamp(min=0.0).log1p(), value)
        # Descriptors stand at minute 0; a reader should not have to remember them for 48 hours.
        values.append(torch.where(noted, logs[:1], logs))
        mask.append(torch.where(noted, seen[:1], seen))
    return dataclasses.replace(stays, values=tuple(values), mask=tuple(mask))


@dataclasses.dataclass(frozen=True)
class Parts:
    """Stays to learn from and to be judged by, standardised, on a grid of hours."""

    train: SeriesSet
    test: SeriesSet


def split(stays: SeriesSet, seed: int, hours: float) -> Parts:
    """80 % and 20 % of the stays, with the same share of deaths."""
    test = set(split_series(stays, seed=seed, standardise=False).test.subjects)
    inside = torch.tensor([subject in test for subject in stays.subjects])
    train = stays.subset(~inside)
    scaling = fit_scaling(train, clip=True, time_scale=DAY_HALF)
    return Parts(
        train.scaled(scaling).quantised(hours / DAY_HALF),
        stays.subset(inside).scaled(scaling).quantised(hours / DAY_HALF),
    )


def batches(stays: SeriesSet) -> Iterator[Tensor]:
    """Indices of one epoch: stays of about the same length together, in random order."""
    order = (stays.lengths + 3.0 * torch.randn(len(stays))).argsort()
    parts = order.split(BATCH)
    for index in torch.randperm(len(parts)).tolist():
        yield parts[index]


def latent_ode(features: int, hidden: int, latent: int) -> nn.LatentODE:
    """A GRU backwards, a perceptron as field, noise that is learnt."""
    return nn.LatentODE(
        nn.RecurrentEncoder(nn.RNN(features, hidden), latent),
        nn.MLPField(latent, 48, 2, time=False),
        torch.nn.Sequential(
            torch.nn.Linear(latent, 48), torch.nn.Tanh(), torch.nn.Linear(48, features)
        ),
        nn.Gaussian(features, std=0.7, learn=True),
        rtol=1e-3,
        atol=1e-3,
        norm="rms",
    )


def recurrence(name: str, features: int, hidden: int) -> nn.Recurrence:
    """One step of Euler's method from row to row: they are 2 hours apart, and the field is mild."""
    if name == "GRU-D":
        return nn.GRUD(features, hidden)
    return nn.ODERNN(features, hidden, solver="euler", dt0=1.0, adjoint=Direct())


class Classifier(torch.nn.Module):
    """The logit of death, by one of the models.

    Args:
        name: of the model.
        features: of a row.
        own: bool, (features,): which are measured again and again.
    """

    def __init__(self, name: str, features: int, own: Tensor) -> None:
        super().__init__()
        self.own = own
        if name == "latent ODE":
            self.model: torch.nn.Module = latent_ode(features, 32, LATENT)
            self.head = torch.nn.Sequential(
                *(torch.nn.Dropout(0.3), torch.nn.Linear(LATENT, 32), torch.nn.ReLU()),
                *(torch.nn.Dropout(0.3), torch.nn.Linear(32, 1)),
            )
        else:
            hidden = 48 if name == "GRU-D" else 32
            reader = recurrence(name, features, hidden)
            self.model = nn.SeriesClassifier(reader, 1, width=32, dropout=0.3)

    def forward(self, batch: IrregularBatch) -> Tensor:
        """``(batch,)``."""
        if isinstance(self.model, nn.LatentODE):
            return self.head(self.model.encode(batch).loc).squeeze(1)
        return self.model(batch).squeeze(1)

    def loss(self, batch: IrregularBatch, died: Tensor, kl_weight: float) -> Tensor:
        """Cross entropy; for the latent ODE with the negative ELBO of the series, per value."""
        thinned = batch.hidden(torch.rand(batch.mask.shape) > 0.4 * torch.rand(len(batch), 1, 1))
        if not isinstance(self.model, nn.LatentODE):
            return F.binary_cross_entropy_with_logits(self(thinned), died)
        target = batch.hidden(self.own.expand_as(batch.mask))
        elbo = self.model.elbo(thinned, target)
        logits = self.head(elbo.posterior.rsample()).squeeze(1)
        explained = elbo.value(kl_weight).sum() / target.mask.sum()
        return F.binary_cross_entropy_with_logits(logits, died) - explained


def fit(
    model: torch.nn.Module,
    stays: SeriesSet,
    loss: Callable[[Tensor, float], Tensor],
    rate: float,
    epochs: int,
    title: str,
) -> float:
    """Adam with weight decay; returns its seconds of CPU."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 1e-3},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    steps = epochs * -(-len(stays) // BATCH)
    optimizer = torch.optim.AdamW(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    began = time.process_time()
    for epoch in track(range(epochs), title):
        for index in batches(stays):
            optimizer.zero_grad()
            loss(index, nn.kl_annealing(epoch, 5)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return time.process_time() - began


def mortality(stays: SeriesSet, name: str, seed: int) -> tuple[torch.nn.Module, Result]:
    """Train a classifier; the area under its ROC curve on the test stays."""
    torch.manual_seed(seed)
    parts = split(stays, seed, HOURS[name])
    own = torch.tensor([feature not in DESCRIPTORS for feature in stays.features])
    model = Classifier(name, stays.width, own)

    def loss(index: Tensor, kl_weight: float) -> Tensor:
        died = parts.train.labels[index].float()
        return model.loss(parts.train.batch(index), died, kl_weight)

    title = f"mortality: {name}, split {seed}"
    seconds = fit(model, parts.train, loss, RATES[name], EPOCHS["mortality"], title)
    model.eval()
    with torch.no_grad():
        logits = model(parts.test.batch())
    size = sum(parameter.numel() for parameter in model.parameters())
    auc = roc_auc_score(parts.test.labels, logits)
    return model, {"auc": auc, "seconds": seconds, "parameters": size}


def summaries(stays: SeriesSet) -> np.ndarray:
    """First, last, mean, least, greatest, deviation, number and presence, of each variable."""
    rows = []
    for value, seen in zip(stays.values, stays.mask, strict=True):
        row = []
        for feature in range(stays.width):
            own = value[seen[:, feature], feature].numpy()
            if len(own):
                spread = (own.mean(), own.min(), own.max(), own.std())
                row += [own[0], own[-1], *spread, np.log1p(len(own)), 1.0]
            else:
                row += [0.0] * 8
        rows.append(row)
    return np.array(rows)


def logistic(stays: SeriesSet, seed: int) -> float:
    """Area under the ROC curve of logistic regression, its penalty chosen by cross validation."""
    parts = split(stays, seed, 1.0)
    model = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=10.0 ** np.arange(-4.5, 0.1, 0.5),
            cv=5,
            scoring="roc_auc",
            max_iter=2000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        ),
    )
    model.fit(summaries(parts.train), parts.train.labels)
    return roc_auc_score(parts.test.labels, model.decision_function(summaries(parts.test)))


def halves(batch: IrregularBatch, own: Tensor) -> tuple[IrregularBatch, IrregularBatch]:
    """A random half of the rows, and the measurements of the other half."""
    given = torch.rand(batch.times.shape) < 0.5
    other = batch.select(~given)
    return batch.select(given), other.hidden(own.expand_as(other.mask))


def interpolation(stays: SeriesSet, name: str, seed: int) -> tuple[torch.nn.Module, Result]:
    """Train on one half of the rows given the other; mean squared error on the test stays."""
    torch.manual_seed(seed)
    parts = split(stays, seed, 1.0)
    own = torch.tensor([feature not in (*DESCRIPTORS, "MechVent") for feature in stays.features])
    if name == "latent ODE":
        model: torch.nn.Module = latent_ode(stays.width, 64, 32)
    else:
        noise = nn.Gaussian(stays.width, std=0.7, learn=True)
        model = nn.RecurrentForecaster(recurrence(name, stays.width, 64), noise)

    def loss(index: Tensor, kl_weight: float) -> Tensor:
        batch = parts.train.batch(index)
        given, asked = halves(batch, own)
        if isinstance(model, nn.LatentODE):
            target = batch.hidden(own.expand_as(batch.mask))
            return -model.elbo(given, target).value(0.3 * kl_weight).sum() / target.mask.sum()
        return -model.log_likelihood(given, asked).sum() / asked.mask.sum()

    title = f"interpolation: {name}, split {seed}"
    seconds = fit(model, parts.train, loss, 5e-3, EPOCHS["interpolation"], title)
    model.eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        given, asked = halves(parts.test.batch(), own)
        mean = model.predict(given, asked.times).mean
    error = (mean - asked.values)[asked.mask].square().mean().item()
    return model, {"mse": error, "seconds": seconds, **trivial(given, asked)}


def trivial(given: IrregularBatch, asked: IrregularBatch) -> Result:
    """Errors of the mean over patients (0), and of the last value that was seen."""
    carried = torch.zeros_like(asked.values)
    for row in range(given.rows):
        here = given.mask[:, row : row + 1]
        later = asked.times >= given.times[:, row : row + 1]
        carried = given.values[:, row : row + 1].where(here & later.unsqueeze(-1), carried)
    errors = {"mean_mse": asked.values, "last_mse": carried - asked.values}
    return {name: error[asked.mask].square().mean().item() for name, error in errors.items()}


def row(name: str, values: list[float], rest: str = "") -> str:
    """A row of a table: each split, and their mean."""
    cells = " | ".join(f"{value:.3f}" for value in values)
    return f"| {name} | {cells} | **{statistics.fmean(values):.3f}** | {rest} |"


def main() -> None:
    """Train what is not there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of text files, or set-a.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/stays"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    stays, out = load(options.data), options.out
    for task, key in ((mortality, "auc"), (interpolation, "mse")):
        lines = []
        for name in MODELS:
            found = [
                kept(
                    out / f"{task.__name__}-{name.replace(' ', '-')}-{seed}",
                    lambda task=task, name=name, seed=seed: task(stays, name, seed),
                )
                for seed in options.seeds
            ]
            seconds = statistics.fmean(one["seconds"] for one in found)
            lines.append(row(name, [one[key] for one in found], f"{seconds:.0f} s"))
        print(task.__name__, *lines, sep="\n")
        if task is interpolation:
            print(row("last value", [one["last_mse"] for one in found]))
            print(row("mean patient", [one["mean_mse"] for one in found]))
        else:
            print(row("logistic regression", [logistic(stays, seed) for seed in options.seeds]))


if __name__ == "__main__":
    main()
