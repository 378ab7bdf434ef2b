"""Event times: a latent ODE learns intensities that are known, and is held against them.

Two sets, each with 300 series to learn from and 200 to be judged by. In the first all series follow
one intensity with two bursts. In the second each follows its own, moved in time and scaled, which
the model has to tell from the events. Written: the error of the intensity and the log
likelihood beside the best that could be reached and beside the truth, and a picture.

    python examples/event_times.py --out runs/events
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from fitting import fit
from keep import Result, kept, load_into
from torch import Tensor

from isocline import nn
from isocline.data import Bumps, Intensity, IrregularBatch, event_series, moved_intensities

BATCH = 50
TRAIN, TEST = 300, 200
LATENT = 4
SHIFT, SPREAD = 0.5, 0.3  # how far series are moved, and the deviation of their logarithmic scale
BURSTS = Bumps(floor=2.0, heights=(20.0, 12.0), centres=(1.0, 2.8), widths=(0.2, 0.3), end=4.0)
GRID = torch.linspace(0.0, BURSTS.end, 401)
# The sets, and how long a model learns from each.
ITERATIONS = {"one intensity": 600, "one for each series": 2000}
SETS = tuple(ITERATIONS)


def intensities(name: str, seed: int) -> tuple[list[Intensity], list[Intensity]]:
    """The true intensities of the series for training and for the test."""
    if name == SETS[0]:
        return [BURSTS] * TRAIN, [BURSTS] * TEST
    every = list(moved_intensities(BURSTS, TRAIN + TEST, shift=SHIFT, spread=SPREAD, seed=seed))
    return every[:TRAIN], every[TRAIN:]


def make_model(rate: float = 1.0) -> nn.LatentODE:
    """A GRU over the events, four latent dimensions, a field that sees the time.

    Args:
        rate: the mean rate of the events, about which intensities begin.
    """
    return nn.LatentODE(
        nn.RecurrentEncoder(nn.RNN(0, 32), LATENT),
        nn.MLPField(LATENT, hidden=32, depth=2),
        None,
        None,
        events=nn.PoissonProcess(
            torch.nn.Sequential(
                torch.nn.Linear(LATENT, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)
            ),
            scale=rate,
        ),
        rtol=1e-4,
        atol=1e-4,
        norm="rms",
    )


def train(name: str, seed: int) -> tuple[nn.LatentODE, Result]:
    """Maximum ELBO, then everything that is reported."""
    torch.manual_seed(seed)
    known, true = intensities(name, seed)
    series = event_series(known, seed=2 * seed)
    held_out = event_series(true, seed=2 * seed + 1)
    model = make_model(series.lengths.double().mean().item() / BURSTS.end)
    progress = iter(range(ITERATIONS[name]))

    def loss() -> Tensor:
        batch = series.batch(torch.randint(len(series), (BATCH,)))
        return -model.elbo(batch).value(nn.kl_annealing(next(progress), 100)).mean()

    began = time.process_time()
    for _ in fit(model, loss, ITERATIONS[name], 1e-2, f"{name}, seed {seed}"):
        pass
    seconds = time.process_time() - began
    return model, {"seconds": seconds, "nfe": model.nfe_forward, **judge(model, true, held_out)}


def judge(model: nn.LatentODE, true: list[Intensity], held_out: object) -> Result:
    """Error of the intensity, and log likelihoods in nats a series."""
    batch: IrregularBatch = held_out.batch()
    model.eval()
    with torch.no_grad():
        torch.manual_seed(0)
        found = model.intensity(batch, GRID).squeeze(-1).double()
        scores = model.log_marginal(batch, samples=50).double()
    rates = torch.stack([one.rate(GRID.double()) for one in true])
    error = torch.trapezoid((found - rates).abs(), GRID.double())
    events = torch.stack([one.integral(0.0, BURSTS.end) for one in true])
    # What knows nothing but how many events there are on average: a constant rate.
    level = batch.lengths.double().mean() / BURSTS.end
    constant = batch.lengths.double() * level.log() - level * BURSTS.end
    truth = torch.stack(
        [
            one.log_likelihood(own[:length].double())
            for one, own, length in zip(true, batch.times, batch.lengths, strict=True)
        ]
    )
    gap = truth - scores
    return {
        "events": events.mean().item(),
        "error": error.mean().item(),
        "relative": (error.mean() / events.mean()).item(),
        "model": scores.mean().item(),
        "truth": truth.mean().item(),
        "constant": constant.mean().item(),
        "gap": gap.mean().item(),
        "gap_error": gap.std().item() / math.sqrt(len(gap)),
    }


def best(name: str, seed: int) -> tuple[float, float]:
    """What could be reached: error, relative, and log likelihood of one who knows the family.

    Of the second set: the bursts' shapes and how shifts and scales are distributed, but not those
    of a series, over which is integrated.
    """
    _, true = intensities(name, seed)
    batch = event_series(true, seed=2 * seed + 1).batch()
    if name == SETS[0]:
        log_likelihoods = [
            BURSTS.log_likelihood(own[:length].double()).item()
            for own, length in zip(batch.times, batch.lengths, strict=True)
        ]
        return 0.0, statistics.fmean(log_likelihoods)
    shifts = torch.linspace(-SHIFT, SHIFT, 101).double()
    log_scales = torch.linspace(-4.0 * SPREAD, 4.0 * SPREAD, 97).double()
    prior = (-0.5 * (log_scales / SPREAD).square()).log_softmax(0) - math.log(len(shifts))
    moved = GRID.double() - shifts.unsqueeze(1)
    totals = BURSTS.integral(-shifts, BURSTS.end - shifts)
    errors, log_likelihoods, expected = [], [], []
    for one, own, length in zip(true, batch.times, batch.lengths, strict=True):
        events = own[:length].double() - shifts.unsqueeze(1)
        joint = BURSTS.rate(events).log().sum(1, keepdim=True) + length * log_scales + prior
        joint = joint - totals.unsqueeze(1) * log_scales.exp()
        evidence = joint.logsumexp((0, 1))
        weights = ((joint - evidence).exp() * log_scales.exp()).sum(1)
        error = (weights @ BURSTS.rate(moved) - one.rate(GRID.double())).abs()
        errors.append(torch.trapezoid(error, GRID.double()).item())
        log_likelihoods.append(evidence.item())
        expected.append(one.integral(0.0, BURSTS.end).item())
    return sum(errors) / sum(expected), statistics.fmean(log_likelihoods)


def draw(target: Callable[[str], Path], file: Path) -> None:
    """Intensities of three series of each set, true and found, with the events below."""
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), layout="constrained", sharex=True)
    for row, name in zip(axes, SETS, strict=True):
        model = load_into(make_model(), target(name))
        _, true = intensities(name, 0)
        held_out = event_series(true, seed=1)
        with torch.no_grad():
            found = model.intensity(held_out.batch(slice(3)), GRID).squeeze(-1)
        for panel, axis in enumerate(row):
            axis.plot(GRID, true[panel].rate(GRID), "--", color="0.5", label="true intensity")
            axis.plot(GRID, found[panel], color="C0", label="latent ODE")
            axis.plot(
                *(held_out.times[panel], torch.full((len(held_out.times[panel]),), -1.5)),
                "|",
                color="black",
                ms=7,
                label="events",
            )
            axis.set_ylim(bottom=-3.0)
        row[0].set_ylabel(f"{name}\nevents per unit of time")
    for axis in axes[1]:
        axis.set_xlabel("time")
    axes[0, 2].legend(fontsize=8)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Train on both sets, print the table, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/events"))
    options = parser.parse_args()
    torch.set_num_threads(1)

    def target(name: str, seed: int) -> Path:
        return options.out / f"{name.replace(' ', '-')}-{seed}"

    print("| set | seed | error: model | best | log likelihood: model | best | truth | constant |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in SETS:
        results = []
        for seed in options.seeds:
            one = kept(target(name, seed), lambda name=name, seed=seed: train(name, seed))
            results.append(one)
            error, likelihood = best(name, seed)
            print(
                f"| {name} | {seed} | {100 * one['relative']:.1f} % | {100 * error:.1f} % | "
                f"{one['model']:.2f} | {likelihood:.2f} | {one['truth']:.2f} | "
                f"{one['constant']:.2f} |"
            )
        mean = statistics.fmean(one["relative"] for one in results)
        print(f"{name}: mean error {100 * mean:.1f} % of the expected events")
    draw(lambda name: target(name, options.seeds[0]), options.out / "intensities.png")


if __name__ == "__main__":
    main()
