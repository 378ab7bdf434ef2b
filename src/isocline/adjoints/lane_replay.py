"""Memory and way back of a solve in which each sample had its own steps.

A round of steps is one batch, whatever their times: it is taken again as one, and what its steps
are worth to parameters comes out of one vector-Jacobian product. Cotangents are those of the lanes
that there were in a round; going back, lanes that had left come in again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..capture import Guard, operations_so_far
from ..integrate import Cut, Output, Round, SampleOutcome, integrate_samples, started
from ..samples import SamplePlan, SampleProblem
from ..solution import Statistics
from ..solvers.lane_methods import LaneMethod, lane_stepper
from ..solvers.lanes import LaneStep, LaneStepper
from .base import ParameterGradients, is_stack, pulled_back
from .kept_lanes import KeepingLanes, KeptRound
from .lane_pulls import PullingLanes, of_output
from .lane_rounds import TakenRound
from .lane_starts import LaneStarts

__all__ = ["LaneReplay"]

Gradients = tuple[Tensor | None, ...]


class LaneReplay:
    """Records a forward pass and differentiates it.

    Args:
        problem, plan: what is solved, and how.
        starts: where the way back gets the states from that rounds started from.
        keep: how many rounds keep their graphs.
        stats: for the backward pass to count into.
    """

    def __init__(
        self,
        problem: SampleProblem,
        plan: SamplePlan,
        starts: LaneStarts,
        keep: int,
        stats: Statistics,
    ) -> None:
        # The caller's graph reaches the autograd function as inputs; held here too it would tie it
        # into a cycle.
        times = None if problem.times is None else problem.times.detached()
        self.problem = replace(problem, y0=problem.y0.detach(), times=times)
        self.plan, self.stats, self.keep = plan, stats, keep
        self.outcome: SampleOutcome
        packing = problem.field.packing
        self.method = lane_stepper(plan.solver, packing.dtype, packing.device)
        self.rounds: list[TakenRound] = []
        self.initial: Output | None = None
        self._starts = starts
        self._left: list[list[Tensor]] = [[]]  # after the start, and after each round
        self._kept: dict[int, KeptRound] = {}
        self._turn = threading.RLock()  # threads may go back through one graph

    def stepper(self, stepper: LaneMethod) -> LaneStepper:
        """The stepper of the forward pass: its first rounds keep their graphs."""
        if not self.keep:
            return stepper
        return KeepingLanes(stepper, self.keep, timed=self.problem.times is not None)

    def began(self, initial: Output | None) -> None:
        """Some initial states are rows of output."""
        self.initial = initial

    def accepted(self, round_: Round, step: LaneStep) -> None:
        """Remember a round."""
        # Where a step ended, not the event that cut it short: a step is taken back as a whole.
        whole = step.inner if isinstance(step, Cut) else step
        self._starts.accepted(round_, whole.y1)
        if isinstance(step, KeptRound) and (round_.taken is None or step.finite):
            self._kept[len(self.rounds)] = step
        self._remember(round_)

    def skipped(self, round_: Round, y1: Tensor) -> None:
        """Remember a round that gave no output."""
        self._starts.accepted(round_, y1)
        self._remember(round_)

    def _remember(self, round_: Round) -> None:
        output = round_.output
        first = self.rounds[-1].last_row if self.rounds else self._initial_rows
        last = first if output is None else first + len(output.samples)
        event = self.rounds[-1].last_event if self.rounds else 0
        samples, t, t_next, _, taken, _, hits, moved = round_
        self.rounds.append(
            TakenRound(samples, t, t_next, taken, output, first, last, hits, moved, event)
        )
        self._left.append([])

    def left(self, stay: Tensor) -> None:
        """Lanes left; these positions stayed."""
        self._left[-1].append(stay)

    def forget(self) -> None:
        """Keep the start alone: a backward pass, if there is one yet, takes all steps again."""
        with self._turn:
            self._kept.clear()
            if self.rounds:
                first = started(self.problem.y0, self.method.copies)
                self._starts.restart(self._stayed(first, 0))

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Integrate; the rows, shape (rows, width), and times and states of all events."""
        self.outcome = integrate_samples(self.problem, self.plan, recorder=self)
        return self.outcome.taken_out(self.problem.y0)

    def backward(self, captured: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Gradients:
        """Gradients of y0, t0, t1 and ts, and of the captured tensors."""
        with self._turn:
            return _Walk(self, captured, cotangents).run()

    @property
    def _initial_rows(self) -> int:
        return 0 if self.initial is None else len(self.initial.samples)

    def states(self) -> Iterator[Tensor]:
        """What all lanes carried before each round, last first."""
        field = self.problem.field

        def advance(index: int, y: Tensor) -> Tensor:
            round_ = self.rounds[index]
            self.stats.steps_recomputed += len(round_.movers)
            times = round_.of_movers(round_.t), round_.of_movers(round_.t_next)
            step = round_.again(self.method, field, times, round_.of_movers(y))
            _, after = round_.passed(self.plan.events, field, step)
            return self._stayed(round_.onward(y, after), index + 1)

        return self._starts.backwards(self.rounds, advance)

    def kept(self, index: int) -> KeptRound | None:
        """The graph of a round, if it was kept."""
        return self._kept.get(index)

    def _stayed(self, lanes: Tensor, place: int) -> Tensor:
        """Entries of the lanes that stayed after the start (0), or after round `place - 1`."""
        for stay in self._left[place]:
            lanes = lanes.index_select(0, stay)
        return lanes

    def before_leaving(self, lanes: Tensor, place: int, count: int) -> Tensor:
        """The way back of that, to `count` lanes: zeros for those that had left."""
        left = self._left[place]
        sizes = [count, *(len(stay) for stay in left)]
        for stay, size in zip(reversed(left), reversed(sizes[:-1]), strict=True):
            lanes = lanes.new_zeros(size, *lanes.shape[1:]).index_copy(0, stay, lanes)
        return lanes


class _Walk:
    """One backward pass over all rounds.

    Args:
        replay: recorded them.
        captured: what the field depends on.
        cotangents: of the rows of output, and of times and states of events.
    """

    def __init__(
        self, replay: LaneReplay, captured: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> None:
        self.replay, self.captured = replay, captured
        self.cotangent, self.of_events = cotangents[0], cotangents[1:]
        problem = replay.problem
        self.field, self.times = problem.field, problem.times
        self.guard = Guard(captured)
        self.totals = ParameterGradients(len(captured))
        carried = replay.method.copies * problem.y0.shape[1]
        self.y = problem.y0.new_zeros(self._lanes_at_end(), carried)
        self.t = problem.t0.new_zeros(len(self.y))  # of times at which lanes go on from events
        self.timed = self.times is not None or bool(replay.plan.events)
        self.pulling = replay.method if isinstance(replay.method, PullingLanes) else None
        self.pulls = self.pulling.pulling(self.field) if self.pulling is not None else None
        self.waiting: list[tuple[TakenRound, Tensor]] = []  # rounds to be pulled back at one go
        self.slope: Tensor | None = None  # of slopes that rounds handed on
        self.of_times: list[Tensor | None] = [None, None, None]
        if self.times is not None:
            self.of_times = [None if t is None else torch.zeros_like(t) for t in self.times]

    def _lanes_at_end(self) -> int:
        replay = self.replay
        left = replay._left[-1]
        if left:
            return len(left[-1])
        return len(replay.rounds[-1].samples) if replay.rounds else self.field.batch

    def run(self) -> Gradients:
        """Gradients of y0, t0, t1 and ts, and of the captured tensors."""
        replay, rounds = self.replay, self.replay.rounds
        states = replay.states()
        for index in range(len(rounds) - 1, -1, -1):
            self._reenter(index + 1, len(rounds[index].samples))
            y = next(states)
            kept = replay.kept(index)
            if self.pulls is not None and rounds[index].taken is None:
                self._pull_whole(rounds[index], y)
                continue
            self._catch_up()
            if kept is None:
                self._pull_again(rounds[index], y)
            else:
                self._pull_kept(rounds[index], kept)
        self._reenter(0, self.field.batch)
        self._pull_start()
        if self.pulls is not None:
            self.totals.add(self.pulls.totals())
        return (self.y, *self.of_times, *self.totals.totals)

    def _reenter(self, place: int, count: int) -> None:
        """Lanes that left come in again."""
        if self.replay._left[place] or place == 0:
            self._catch_up()
        self.y = self.replay.before_leaving(self.y, place, count)
        self.t = self.replay.before_leaving(self.t, place, count)
        if self.slope is not None:
            self.slope = self.replay.before_leaving(self.slope, place, count)

    def _output(
        self, round_: TakenRound, step: LaneStep
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The rows of a round and their cotangents, with the leaf that stands for their times."""
        if round_.output is None:
            return [], [], []
        leaf: list[Tensor] = []
        if self.times is not None:
            leaf = [round_.output.times.detach().requires_grad_()]
        rows = round_.rows(step, self.field.width, leaf[0] if leaf else None)
        assert rows is not None
        return [rows], [self.cotangent[round_.first_row : round_.last_row]], leaf

    def _pull_whole(self, round_: TakenRound, y: Tensor) -> None:
        """Pull the cotangents back by the method itself."""
        method, pulls = self.pulling, self.pulls
        assert method is not None
        assert pulls is not None
        if round_.output is None:
            self.waiting.append((round_, y))
            return
        self._catch_up()
        cotangents = self.cotangent[round_.first_row : round_.last_row]
        start, end, slopes = of_output(method, round_, y, self.field.width, cotangents)
        self.y = pulls.pull(round_, y, self.y + end, slopes) + start

    def _catch_up(self) -> None:
        """Pull the cotangents back over the rounds that wait for it."""
        if self.waiting:
            assert self.pulls is not None
            self.y = self.pulls.pull_all(self.waiting, self.y)
            self.waiting = []

    def _pull_again(self, round_: TakenRound, y: Tensor) -> None:
        """Take a round again with a graph, and pull the cotangents back over it."""
        slope = self.slope
        with torch.enable_grad():
            leaf = round_.of_movers(y).detach().requires_grad_()
            before = operations_so_far(leaf)
            times = round_.of_movers(round_.t), round_.of_movers(round_.t_next)
            if self.timed:
                times = times[0].detach().requires_grad_(), times[1].detach().requires_grad_()
            method, events = self.replay.method, self.replay.plan.events
            step = round_.again(method, self.field, times, leaf, whole=slope is not None)
            cut, after = round_.passed(events, self.field, step)
            rows, cotangents, wanted = self._output(round_, cut)
            size = operations_so_far(leaf) - before
        outputs = [after, *rows]
        pulls = [round_.of_movers(self.y), *cotangents]
        if isinstance(cut, Cut):
            first, last = round_.first_event, round_.last_event
            onward = round_.of_movers(self.t).index_select(0, round_.hit)
            outputs += [cut.passage.times, cut.passage.states]
            pulls += [onward + self.of_events[0][first:last], self.of_events[1][first:last]]
        if slope is not None and step.last is not None:
            outputs.append(step.last)
            pulls.append(round_.of_movers(slope))
        own = list(times) if self.timed else []
        self.guard.check(outputs, [leaf, *own, *wanted], size)
        found = pulled_back(outputs, pulls, [leaf, *own, *wanted, *self.captured])
        self.y = round_.onward(self.y, _or_zeros(found[0], leaf))
        if slope is not None:
            self.slope = round_.onward(slope, torch.zeros_like(leaf))
        if self.replay.plan.events:
            from_event = torch.zeros_like(times[0])
            if round_.moved is not None and found[1] is not None:
                from_event = found[1] * round_.of_movers(round_.moved)
            self.t = round_.onward(self.t, from_event)
        self._add(round_, found[1 : 1 + len(own)], found[1 + len(own) : 1 + len(own) + len(wanted)])
        self.totals.add(found[1 + len(own) + len(wanted) :])

    def _pull_kept(self, round_: TakenRound, kept: KeptRound) -> None:
        """Pull the cotangents back over a round that kept its graph."""
        graph, taken = kept.graph, round_.taken
        with torch.enable_grad():
            inner = round_._replace(taken=None)  # all lanes have a part in the graph
            rows, cotangents, wanted = self._output(inner, graph)
        leaves = [*kept.leaves, *kept.times, *wanted]
        self.guard.check([graph.y1, *rows], leaves, (kept.size, len(rows)))
        outputs, pulls = [graph.y1, *rows], [_of(self.y, taken), *cotangents]
        if self.slope is not None and graph.last is not None:
            outputs.append(graph.last)
            pulls.append(_of(self.slope, taken))
        found = pulled_back(outputs, pulls, [*leaves, *self.captured])
        self.y = self._mixed(round_, self.y, _or_zeros(found[0], self.y))
        if self.slope is not None or len(kept.leaves) > 1:
            before = torch.zeros_like(self.y) if self.slope is None else self.slope
            handed = found[1] if len(kept.leaves) > 1 else None
            self.slope = self._mixed(round_, before, _or_zeros(handed, self.y))
        first, last = len(kept.leaves), len(kept.leaves) + len(kept.times)
        of_ends = [None if g is None else round_.of_movers(g) for g in found[first:last]]
        self._add(round_, of_ends, found[last : len(leaves)])
        self.totals.add(found[len(leaves) :])

    @staticmethod
    def _mixed(round_: TakenRound, before: Tensor, found: Tensor) -> Tensor:
        """What was found for the movers; for the other lanes what there was."""
        if round_.taken is None:
            return found
        return before.index_copy(0, round_.taken, found.index_select(0, round_.taken))

    def _add(
        self, round_: TakenRound, ends: Sequence[Tensor | None], wanted: Sequence[Tensor | None]
    ) -> None:
        """Gradients of the ends of steps and of output times, to whom they belong.

        Of the ends only those count that are the start or the end of a solve; the others are
        constants.
        """
        if self.times is None:
            return
        movers, problem = round_.movers, self.replay.problem
        for place, (clocks, bound) in enumerate(
            ((round_.t, problem.t0), (round_.t_next, problem.t1))
        ):
            gradient, total = ends[place], self.of_times[place]
            if gradient is not None and total is not None:
                own = round_.of_movers(clocks) == bound.index_select(0, movers)
                if place == 0 and round_.moved is not None:
                    own &= ~round_.of_movers(round_.moved)
                self.of_times[place] = total.index_add(0, movers, gradient * own)
        total, output = self.of_times[2], round_.output
        if total is not None and output is not None and wanted and wanted[0] is not None:
            flat = total.reshape(-1).index_add(0, output.wanted, wanted[0][: len(output.wanted)])
            self.of_times[2] = flat.view(total.shape)

    def _pull_start(self) -> None:
        """Over what came before the first round: the first slopes, and rows of initial states."""
        problem, initial = self.replay.problem, self.replay.initial
        if self.replay.method.copies > 1:  # all of which are y0
            self.y = torch.stack(self.y.split(self.field.width, 1)).sum(0)
        slope = self.slope
        if slope is not None and (is_stack(slope) or bool(slope.any())):
            with torch.enable_grad():
                y0 = problem.y0.detach().requires_grad_()
                t0 = problem.t0.detach().requires_grad_(self.times is not None)
                start = self.field(t0.to(y0.real.dtype), y0)
            own = [t0] if t0.requires_grad else []
            found = pulled_back([start], [slope], [y0, *own, *self.captured])
            self.y = self.y + _or_zeros(found[0], self.y)
            if own and found[1] is not None and self.of_times[0] is not None:
                self.of_times[0] = self.of_times[0] + found[1]
            self.totals.add(found[1 + len(own) :])
        if initial is not None:
            rows = self.cotangent[: len(initial.samples)]
            self.y = self.y.index_add(0, initial.samples, rows)


def _or_zeros(found: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if found is None else found


def _of(lanes: Tensor, taken: Tensor | None) -> Tensor:
    """Entries of the lanes at `taken`, zeros for the others."""
    if taken is None:
        return lanes
    return torch.zeros_like(lanes).index_copy(0, taken, lanes.index_select(0, taken))
