"""Per-sample stepping beside joint stepping, torchode and diffrax: docs/results/per-sample.md.

Van der Pol's equation with a stiffness of each sample's own, batches of equal difficulty, and
series with output times of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

# One thread for XLA, and double precision: to be said before jax is imported.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_ENABLE_X64"] = "1"

import torch
from per_sample_peers import BATCH, SPAN, START, TOL, oscillator, peers, solve
from timing import Timing, interleaved, publish
from torch import Tensor, nn

import isocline as ic
from isocline.integrate import attempts

STEPPINGS = ("joint", "per_sample")


def oscillators(rounds: int) -> list[str]:
    """Van der Pol: work, error and time."""
    lines = [
        f"## Van der Pol, {BATCH} samples, stiffness 2 to 50, t from 0 to {SPAN:g}",
        "",
        f"Dormand-Prince 5, float64, rtol = atol = {TOL:g}, all samples from (2, 0).",
        "",
        "| isocline | calls of the field | evaluations × samples |",
        "| --- | --- | --- |",
    ]
    work = {}
    for stepping in STEPPINGS:
        stats = solve(stepping, grad=False).stats
        work[stepping] = stats.evaluated_samples or stats.nfe_forward * BATCH
        lines.append(f"| {stepping} | {stats.nfe_forward:,} | {work[stepping]:,} |")
    share = work["per_sample"] / work["joint"]
    lines += ["", f"Per-sample stepping evaluates **{share:.2f}** of what joint stepping does.", ""]
    exact = solve("per_sample", grad=False, tol=1e-10).ys[-1]
    candidates = peers()
    for title, grad in (("Forward", False), ("Forward and backward", True)):
        errors = {
            name: float((run(grad).detach() - exact).abs().max())
            for name, run in candidates.items()
        }
        runs = {name: partial(run, grad) for name, run in candidates.items()}
        lines += [f"{title}:", "", *table(interleaved(runs, rounds, warm_up=1), errors), ""]
    return lines


def table(times: dict[str, Timing], errors: dict[str, float]) -> list[str]:
    """Times, and each beside isocline's per-sample stepping, compiled and not."""
    compiled, plain = list(times.values())[:2]
    lines = [
        (
            "| | ms, median | largest error | isocline by samples, compiled, is faster by "
            "(quartiles) | uncompiled, by |"
        ),
        "| --- | --- | --- | --- | --- |",
    ]
    for name, theirs in times.items():
        ratios = [_faster(own, theirs) for own in (compiled, plain)]
        lines.append(
            f"| {name} | {theirs.median:.0f} | {errors[name]:.1e} | {' | '.join(ratios)} |"
        )
    return lines


def _faster(own: Timing, theirs: Timing) -> str:
    if theirs is own:
        return ""
    low, high = own.spread(theirs)
    return f"{own.ratio(theirs):.2f} ({low:.2f}-{high:.2f})"


@dataclass(frozen=True)
class Even:
    """A batch of equal difficulty."""

    name: str
    field: Any
    y0: Tensor
    t1: float


def even(rounds: int) -> list[str]:
    """What the clocks of its own cost where no sample needs any."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    )
    wide = ic.nn.MLPField(64, hidden=256, time=False)
    cases = [
        Even("van der Pol, stiffness 5, 256 samples", five, START, 20.0),
        Even("2-64-64-2 network, 128 samples", plain(layers), torch.ones(128, 2), 200.0),
        Even("64-256-256-64 network, 512 samples", wide, torch.ones(512, 64), 20.0),
    ]
    lines = [
        "## Batches of equal difficulty",
        "",
        (
            "All samples are the same, so that both ways take the same steps: the difference is "
            "what clocks of their own cost. Per-sample stepping's time, of joint stepping's "
            "(quartiles):"
        ),
        "",
        "| | forward | forward and backward | compiled, forward | compiled, both |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        cells = []
        for compile, grad in product((False, True), repeat=2):
            runs = {s: partial(run_even, case, s, grad, compile) for s in STEPPINGS}
            times = interleaved(runs, rounds, warm_up=1)
            joint, own = times["joint"], times["per_sample"]
            low, high = own.spread(joint)
            cells.append(f"{1 / own.ratio(joint):.2f} ({1 / high:.2f}-{1 / low:.2f})")
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    return [*lines, ""]


def five(t: Tensor, y: Tensor) -> Tensor:
    return oscillator(t, y, torch.tensor(5.0, dtype=y.dtype))


def plain(layers: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, y: layers(y)


def run_even(case: Even, stepping: Any, grad: bool, compile: bool) -> None:
    with torch.set_grad_enabled(grad):
        y0 = case.y0.clone().requires_grad_(grad)
        found = ic.solve(
            case.field, y0, 0.0, case.t1, solver="dopri5", stepping=stepping, compile=compile
        )
        if grad:
            found.ys.sum().backward()


def ragged(rounds: int) -> list[str]:
    """512 series with 5 to 200 output times each, beside a rectangle of as many in all."""
    generator = torch.Generator().manual_seed(0)
    count = 512
    lengths = torch.randint(5, 201, (count,), generator=generator)
    mu = torch.rand(count, generator=generator, dtype=torch.float64) * 4 + 0.5
    y0 = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    rows = [
        (10 * torch.rand(int(n), generator=generator, dtype=torch.float64)).sort().values
        for n in lengths
    ]
    each = int(lengths.sum()) // count
    rectangle = (
        (10 * torch.rand(count, each, generator=generator, dtype=torch.float64)).sort(1).values
    )

    def run(ts: Any) -> ic.Solution:
        with torch.no_grad():
            return ic.solve(
                oscillator, y0, 0.0, 10.0, args=(ic.PerSample(mu),), save=ic.SaveAt(ts=ts),
                stepping="per_sample",
            )  # fmt: skip

    found, worst = run(rows), 0.0
    for sample in range(0, count, 16):
        args = (ic.PerSample(mu[sample : sample + 1]),)
        alone = ic.solve(
            oscillator, y0[sample : sample + 1], 0.0, 10.0, args=args, stepping="per_sample",
            save=ic.SaveAt(ts=[rows[sample]]),
        )  # fmt: skip
        length = int(lengths[sample])
        error = (found.ys[:length, sample] - alone.ys[:, 0]).abs().max()
        worst = max(worst, float(error / alone.ys.abs().max()))
    times = interleaved({"rectangle": lambda: run(rectangle), "ragged": lambda: run(rows)}, rounds)
    low, high = times["rectangle"].spread(times["ragged"])
    part = times["rectangle"].ratio(times["ragged"])
    return [
        "## Output times of each sample",
        "",
        (
            f"{count} series with 5 to 200 output times each, {int(lengths.sum()):,} in all, take "
            f"**{part:.2f}** ({low:.2f}-{high:.2f}) of the time of a batch with {each} each "
            f"({times['rectangle'].median:.0f} ms). Solved one by one, 32 of the series answer "
            f"with differences of at most {worst:.0e}, relative."
        ),
        "",
    ]


def crowds(rounds: int) -> list[str]:
    """When lanes at rest should leave."""
    own = attempts.CROWD
    runs: dict[str, Callable[[], object]] = {}
    work: dict[str, int] = {}

    def run(crowd: int) -> ic.Solution:
        attempts.CROWD = crowd
        try:
            return solve("per_sample", grad=False)
        finally:
            attempts.CROWD = own

    for crowd in (1, 2, 4, 8, 16, 64, 10_000):
        name = f"one in {crowd}" if crowd < 10_000 else "at once"
        runs[name] = lambda c=crowd: run(c)  # type: ignore[misc]
        work[name] = run(crowd).stats.evaluated_samples
    times = interleaved(runs, rounds, warm_up=0)
    lines = [
        "## When lanes at rest leave",
        "",
        (
            "Lanes whose samples are done are evaluated along until they are one in so many (the "
            "same problem as above, forward)."
        ),
        "",
        "| they leave when they are | evaluations × samples | ms, median |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {work[name]:,} | {times[name].median:.0f} |" for name in runs]
    return [*lines, ""]


def page(rounds: int) -> str:
    head = [
        "# Per-sample stepping",
        "",
        (
            f"One thread, {rounds} interleaved rounds, medians. isocline {ic.__version__}, torch "
            f"{torch.__version__}. Made by `make bench-per-sample`; the machine was shared with "
            "other work: read the ratios, and their quartiles for the noise."
        ),
        "",
    ]
    parts = [oscillators(rounds), even(rounds), ragged(rounds), crowds(rounds)]
    return "\n".join([*head, *(line for part in parts for line in part)]).rstrip() + "\n"


if __name__ == "__main__":
    publish(__doc__, page, rounds=5)
