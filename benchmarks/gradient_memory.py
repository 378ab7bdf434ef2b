"""Peak memory of forward and backward pass against the number of steps, for every adjoint.

A state of 64x16 numbers, a tanh network with 128 hidden units, constant steps of one evaluation
each (Euler; ALF and reversible Euler for steps that are taken back). Every allocation of torch's is
counted, exactly, in a process of its own for each adjoint. Writes a figure, a CSV file and a part
of the page on gradients.

    python benchmarks/gradient_memory.py [--most 10000] [--out docs/results/gradients.md]
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from math import comb
from pathlib import Path

import numpy as np
import torch
from gradient_page import PAGE, adjoints, write_part
from torch import Tensor, nn

import isocline as ic
from isocline.diagnosis.costs import peak_bytes
from isocline.plots.style import COLORS, new_figure, save_figure, style

STEPS = (10, 30, 100, 300, 1000, 3000, 10_000)
ROWS, WIDTH, HIDDEN = 64, 16, 128
STATE = 4 * ROWS * WIDTH
"""Bytes of a state."""

ACTIVATIONS = 4 * ROWS * HIDDEN
"""Bytes of what autograd keeps of one evaluation: what tanh gave; the state is counted apart."""

AFFORDED = 150_000
"""Evaluations beyond which the allocations of a run are too many to be written down."""


Row = dict[str, str | int]


class Field(nn.Module):
    """dy/dt = rate * network(y): in forward mode the rate alone is differentiated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, WIDTH))
        self.rate = nn.Parameter(torch.ones(()))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rate * self.net(y)


def candidates() -> dict[str, tuple[ic.Adjoint, ic.Solver]]:
    """Adjoint and method, by name."""
    found = {name: (adjoint, ic.Euler()) for name, adjoint in adjoints().items()}
    back = found.pop("StepBack", None)
    if back is not None:
        found["StepBack, ALF"] = (back[0], ic.ALF())
        found["StepBack, Reversible"] = (back[0], ic.Reversible(ic.Euler()))
    return found


def measure(name: str, most: int) -> list[Row]:
    """One adjoint, at every number of steps that can be afforded."""
    torch.set_num_threads(1)
    adjoint, solver = candidates()[name]
    field, rows = Field(), []
    if name == "Forward":
        field.net.requires_grad_(False)
    y0 = torch.randn(ROWS, WIDTH, requires_grad=name != "Forward")
    counted = 0
    for steps in STEPS:
        if steps > most or counted * (steps / rows[-1]["steps"] if rows else 0) > AFFORDED:
            break
        stats: list[ic.Statistics] = []

        def train(steps: int = steps, stats: list[ic.Statistics] = stats) -> None:
            solution = ic.solve(
                field, y0, 0.0, 1.0, solver=solver, controller=ic.Constant(), dt0=1.0 / steps,
                adjoint=adjoint, max_steps=2 * steps,
            )  # fmt: skip
            stats.append(solution.stats)
            solution.ys.square().mean().backward()

        field.zero_grad()
        if not rows:
            train()  # the gradients of the parameters stay, and are no cost of the next run
        memory = peak_bytes(train)
        done = stats[-1]
        counted = done.nfe
        rows.append({
            "adjoint": name, "steps": done.steps_accepted, "bytes": memory,
            "nfe_forward": done.nfe_forward, "nfe_backward": done.nfe_backward,
        })  # fmt: skip
    return rows


def in_subprocess(name: str, most: int) -> list[Row]:
    command = [sys.executable, __file__, "--one", name, "--most", str(most)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def optimum(steps: int, slots: int) -> int:
    """Fewest steps taken in all, forward and backward, for `steps` of them with so many states.

    Griewank (1992, "Achieving logarithmic growth of temporal and spatial complexity in reverse
    automatic differentiation", equation 3): r n - C(s + r, s + 1) without a graph, the first sweep
    among them, and each step once with one; and the last of the sweep, whose result is wanted.
    It is reached where the number of steps is known beforehand.
    """
    repeats = 1
    while comb(slots + repeats, slots) < steps:
        repeats += 1
    return repeats * steps - comb(slots + repeats, slots + 1) + steps + 1


def growth(rows: list[Row]) -> tuple[float, float]:
    """Bytes that a step costs, and the exponent, over the larger half of the numbers of steps."""
    late = rows[len(rows) // 2 :]
    steps, memory = (np.array([row[key] for row in late], float) for key in ("steps", "bytes"))
    line, power = np.polyfit(steps, memory, 1), np.polyfit(np.log(steps), np.log(memory), 1)
    return float(line[0]), float(power[0])


def figure(by_name: dict[str, list[Row]], path: Path) -> None:
    with style():
        picture, (ax,) = new_figure(width=7.6, height=4.6)
        for place, (name, rows) in enumerate(by_name.items()):
            ax.plot(
                [row["steps"] for row in rows],
                [int(row["bytes"]) / 2**20 for row in rows],
                marker="os^DvP<>X*"[place % 10],
                color=[*COLORS, "#444444", "#8C6D31", "#7B3294", "#1B7837"][place % 10],
                linestyle="-" if place < len(COLORS) else "--",
                label=name,
            )
        ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="peak memory, MiB")
        sizes = f"state {STATE / 1024:.0f} kB, activations of a step {ACTIVATIONS / 1024:.0f} kB"
        ax.set_title(sizes, fontsize=10)
        picture.legend(loc="outside right center", fontsize=9)
        save_figure(picture, path, dpi=110)


def memory_table(by_name: dict[str, list[Row]]) -> list[str]:
    taken = sorted({int(row["steps"]) for rows in by_name.values() for row in rows})
    head = ["peak, MiB, at steps", *(f"{steps:,}" for steps in taken), "a step costs", "exponent"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, rows in by_name.items():
        known = {row["steps"]: int(row["bytes"]) / 2**20 for row in rows}
        cells = [f"{known[steps]:.3g}" if steps in known else "" for steps in taken]
        each, power = growth(rows)
        if power < 0.1:
            cost = "nothing"
        elif each > 0.6 * ACTIVATIONS:
            cost = f"{each / (STATE + ACTIVATIONS):.2f} (state + activations)"
        else:
            cost = f"{each / STATE:.2f} states"
        lines.append(f"| {name} | {' | '.join(cells)} | {cost} | {power:.2f} |")
    return lines


def schedule_table(by_name: dict[str, list[Row]]) -> list[str]:
    """Steps taken in all, against the fewest possible."""
    lines = [
        "| slots | steps | steps taken in all | a step | fewest possible | ratio |",
        "|" + " --- |" * 6,
    ]
    for name, rows in by_name.items():
        if not name.endswith("slots"):
            continue
        slots = int(name.split()[-2])
        for row in rows:
            steps = int(row["steps"])
            taken = int(row["nfe_forward"]) + int(row["nfe_backward"])
            fewest = optimum(steps, slots)
            lines.append(
                f"| {slots} | {steps:,} | {taken:,} | {taken / steps:.2f} | {fewest:,} "
                f"| {taken / fewest:.2f} |"
            )
    return lines


def part(by_name: dict[str, list[Row]], page: Path) -> str:
    nl = "\n"
    return f"""## Memory against steps

The most bytes of tensors alive at once during a solve and its backward pass, beyond those alive
before: every allocation of torch's on the CPU, counted exactly. A state of {ROWS}x{WIDTH} float32
numbers ({STATE / 1024:.0f} kB), a tanh network with {HIDDEN} hidden units
({ACTIVATIONS / 1024:.0f} kB of activations an evaluation), constant steps of one evaluation each:
Euler, and reversible methods where steps are taken back. @versions.

![Peak memory against the number of steps]({page.stem}-memory.png)

{nl.join(memory_table(by_name))}

What a step costs, and the exponent with which memory grows, are fitted over the larger half of the
numbers of steps. The default keeps graphs up to its budget (64 MiB), and one state for each step
after that. Forward mode differentiates in one number here. Cells are empty where a run would take
more than {AFFORDED:,} evaluations. The numbers:
[{page.stem}-memory.csv]({page.stem}-memory.csv).

### What few slots cost

{nl.join(schedule_table(by_name))}

Steps forward and backward together, each with or without a graph. "Fewest possible" is Griewank's
optimum for a number of steps that is known beforehand (1992, equation 3); a solver finds its number
of steps only by taking them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help="measure this adjoint alone, and print JSON")
    parser.add_argument("--most", type=int, default=STEPS[-1], help="steps, at most")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.most)))
        return
    by_name: dict[str, list[Row]] = {}
    for name in candidates():
        by_name[name] = in_subprocess(name, options.most)
        print(name, *(f"{row['steps']}: {row['bytes']:,}" for row in by_name[name]), flush=True)
    out: Path = options.out
    with out.with_name(f"{out.stem}-memory.csv").open("w", newline="") as file:
        rows = [row for found in by_name.values() for row in found]
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figure(by_name, out.with_name(f"{out.stem}-memory.png"))
    write_part(out, "memory", part(by_name, out))


if __name__ == "__main__":
    main()
