"""Training steps of latent ODEs on ragged series: jointly, per sample, and by the cheaper way.

What `LatentODE(stepping=...)` costs on clinical series with times of their own (PhysioNet 2012,
where its path is given), and on waves whose ends lie far apart. Each batch and its noise are the
same for all three, so they compute the same bound; how far apart the gradients are is reported.

    python benchmarks/latent_ode_stepping.py [--rounds 40] [--physionet PATH] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import Timing, interleaved
from torch import Tensor, nn

import isocline as ic
from isocline.data import SeriesSet, read_physionet, split_series
from isocline.irregular import IrregularBatch, union_of
from isocline.nn import RNN, CheaperWay, Gaussian, LatentODE, RecurrentEncoder, SemilinearField

STEPPINGS = ("joint", "per_sample", "auto")
TRAINED = 50


@dataclass(frozen=True)
class Case:
    """Series, and how they are learnt.

    Attributes:
        name: of the row.
        series: to draw batches from, their times from 0 to about 1.
        size: series of a batch.
        samples: of the latent state of each series.
        speed: radians per unit of time with which the field begins.
        tolerance: relative and absolute.
    """

    name: str
    series: SeriesSet
    size: int
    samples: int = 1
    speed: float = 1.0
    tolerance: float = 1e-4

    def batch(self, number: int) -> IrregularBatch:
        """The batch of an iteration."""
        generator = torch.Generator().manual_seed(number)
        chosen = torch.randperm(len(self.series), generator=generator)[: self.size]
        return self.series.batch(chosen)


def waves(ends: tuple[float, float], rows: int, count: int = 500) -> SeriesSet:
    """Noisy waves with random times from 0 to an end of their own, ends equal on a log scale."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    low, high = ends
    times, values = [], []
    for _ in range(count):
        end = low * (high / low) ** float(uniform(1))
        time = (end * uniform(rows)).sort().values
        angle = 2 * torch.pi * uniform(1) + 20 * time
        noise = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
        times.append(time)
        values.append((torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * noise).float())
    mask = [torch.ones(rows, 2, dtype=torch.bool)] * count
    subjects = tuple(map(str, range(count)))
    return SeriesSet(tuple(times), tuple(values), tuple(mask), subjects, ("x", "y"))


class Steps:
    """Training steps of one model over the batches of a case.

    Args:
        case: what is learnt.
    """

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        width, latent = case.series.width, 16
        self.model = LatentODE(
            RecurrentEncoder(RNN(width, 32), latent),
            SemilinearField(latent, 48, speed=case.speed),
            nn.Linear(latent, width),
            Gaussian(width, 0.7, learn=True),
            rtol=case.tolerance,
            atol=case.tolerance,
        )
        optimizer = torch.optim.Adam(self.model.parameters(), 5e-3)
        for number in range(TRAINED):  # at its initial values a field is easier than later
            self.run("joint", number)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
        self.model.choice = CheaperWay(self.model.choice.ways)

    def run(self, stepping: str, number: int) -> bool:
        """One pass forward and backward; whether each series went at its own pace."""
        model = self.model
        model.stepping = stepping
        model.zero_grad()
        torch.manual_seed(number)
        batch = self.case.batch(number)
        bound = model.elbo(batch, samples=self.case.samples).value()
        (-bound.sum() / batch.mask.sum()).backward()
        assert model.stats is not None
        return model.stats.samples is not None

    def gradient(self, stepping: str, number: int) -> Tensor:
        """The gradient of a batch as one vector."""
        self.run(stepping, number)
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


def measure(case: Case, rounds: int) -> str:
    """A row of the table."""
    steps = Steps(case)
    for number in range(6):  # the trials
        steps.run("auto", number)
    auto: list[bool] = []

    def candidate(stepping: str) -> Callable[[], object]:
        numbers = itertools.count(TRAINED)  # the same batches for all

        def run() -> None:
            apart = steps.run(stepping, next(numbers))
            if stepping == "auto":
                auto.append(apart)

        return run

    times = interleaved({s: candidate(s) for s in STEPPINGS}, rounds, warm_up=1)
    one, other = (steps.gradient(s, TRAINED) for s in STEPPINGS[:2])
    batch = case.batch(TRAINED)
    union = len(union_of(batch.times, batch.present).times)
    share = statistics.mean(map(float, auto))
    joint, own, chosen = (times[s] for s in STEPPINGS)
    cells = [
        case.name,
        f"{len(batch)} × {batch.rows}, {union}",
        f"{joint.median:.0f}",
        f"{own.median:.0f}",
        versus(joint, own),
        f"{chosen.median:.0f}",
        f"per_sample {100 * share:.0f} %",
        f"{float((one - other).norm() / one.norm()):.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def versus(joint: Timing, own: Timing) -> str:
    """Per-sample stepping's time as a part of joint stepping's, with quartiles."""
    low, high = joint.spread(own)
    return f"{joint.ratio(own):.2f} ({low:.2f}-{high:.2f})"


def cases(physionet: Path | None) -> list[Case]:
    """What is measured."""
    found = [
        Case("waves that end at one time", waves((1.0, 1.0), 30), 64, speed=20.0),
        Case("waves that end at 0.02 to 1", waves((0.02, 1.0), 30), 64, speed=20.0),
        Case("the same, 5 samples each", waves((0.02, 1.0), 30), 64, samples=5, speed=20.0),
    ]
    if physionet is not None:
        stays = read_physionet(physionet)
        for name, width in (("two hours", 2.0), ("minutes", 0.0)):
            rounded = stays.quantised(width) if width else stays
            train = split_series(rounded, clip=True, time_scale=48.0).train
            found.append(Case(f"PhysioNet, times to {name}", train, 64))
        found.append(Case("the last, 5 samples each", train, 64, samples=5))
    return found


def page(rounds: int, physionet: Path | None) -> str:
    """All of it as Markdown."""
    head = [
        "## Latent ODEs: the union of times, or each series' own",
        "",
        (
            "A training step of `LatentODE`, forward and backward, float32, Tsit5, the tolerance "
            "of 1e-4 kept for each series, 16 latent dimensions, a field that was trained for "
            f"{TRAINED} iterations; each round is another batch. One thread, {rounds} interleaved "
            f"rounds, medians with quartiles. isocline {ic.__version__}, torch "
            f"{torch.__version__}, Python {platform.python_version()}. Made by "
            "`benchmarks/latent_ode_stepping.py`; read the ratios."
        ),
        "",
        (
            "| series | batch × rows, union | joint, ms | per sample, ms | per sample, of joint | "
            "auto, ms | auto took | gradients apart by |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *(measure(case, rounds) for case in cases(physionet)), ""])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--physionet", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = page(options.rounds, options.physionet)
    print(text)
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
