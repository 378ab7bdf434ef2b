"""The time loop of per-sample stepping: each sample has its own step.

It knows nothing of gradients.

One round tries one step of every lane. What the host reads of a round: the largest error ratio,
how many steps end at their target, and now and then the shortest next step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..controllers.lanes import initial_steps
from ..samples import SamplePlan, SampleProblem
from ..solution import Status
from ..solvers.lane_methods import lane_stepper
from ..solvers.lanes import LaneStep
from .attempts import STRETCH, Attempt, AttemptingLanes, Attempts, SteppedAttempts
from .judging import LaneTolerance, Verdict
from .lane_dense import dense_nodes
from .lane_events import Cut, LaneWatch
from .lanes import Lanes
from .ragged import RaggedSaver, states_of
from .rounds import CODES, LaneRecorder, Round, SampleOutcome, SkipRecorder, Spread

__all__ = ["integrate_samples"]

_ULPS = 4
"""A step of fewer units in the last place of t than this is an underflow."""

_EPS = torch.finfo(torch.float64).eps


def integrate_samples(
    problem: SampleProblem, plan: SamplePlan, *, recorder: LaneRecorder | None = None
) -> SampleOutcome:
    """Solve each sample's problem at its own pace.

    Args:
        problem, plan: what and how.
        recorder: told of every round's accepted steps.

    Returns:
        The outcome; failures are statuses, never an exception.
    """
    return _Loop(problem, plan, recorder).run()


class _Loop:
    """State of the solve of a batch: its lanes, and what was found."""

    def __init__(
        self, problem: SampleProblem, plan: SamplePlan, recorder: LaneRecorder | None
    ) -> None:
        self.problem, self.plan, self.recorder = problem, plan, recorder
        packing = problem.field.packing
        stepper = lane_stepper(plan.solver, packing.dtype, packing.device)
        self.stepper = stepper if recorder is None else recorder.stepper(stepper)
        self.controller = plan.controller
        nodes = dense_nodes(stepper, problem) if plan.save.dense else None
        self.saver = RaggedSaver(problem, plan.save, nodes)
        self.lanes = Lanes.of(problem, stepper.copies)
        batch, device = problem.field.batch, problem.y0.device
        zeros = torch.zeros(batch, dtype=torch.long, device=device)
        codes = torch.full_like(zeros, CODES.index(Status.SUCCESS))
        self.found = SampleOutcome(
            status=codes,
            t_end=problem.t1.clone(),
            accepted=zeros,
            rejected=zeros.clone(),
            evaluations=zeros.clone(),
            filled=zeros.clone(),
            nodes=0 if nodes is None else len(nodes),
        )
        self.rounds = 0
        self.split = 0  # rounds in which some lane's step may have been rejected
        self.common = 0  # evaluations so far in which all lanes took part
        ends = torch.stack([problem.t0.abs(), problem.t1.abs()])
        self.coarsest = _ULPS * _EPS * float(ends.max())  # infinite where an event is to end it
        self.attempts: Attempts
        critical = max(self.coarsest, self.controller.min_step)
        if isinstance(stepper, AttemptingLanes):
            self.attempts = stepper.attempts(problem, plan, critical)
        else:
            self.attempts = SteppedAttempts(problem, plan, self.stepper, critical)
        listens = recorder is None or isinstance(recorder, SkipRecorder)
        self.skips = listens and plan.save.rests and not plan.events
        self.watch: LaneWatch | None = None
        if plan.events:
            self.watch = LaneWatch(plan.events, self.lanes, rated=recorder is not None)

    def run(self) -> SampleOutcome:
        found, saver = self.found, self.saver
        found.initial = saver.initial(self.problem.t0)
        if found.initial is not None:
            found.rows.append(self.problem.y0.index_select(0, found.initial.ends))
        if self.recorder is not None:
            self.recorder.began(found.initial)
        self._start()
        while self.lanes.working:
            if self.rounds == self.plan.max_steps:
                self._fail(self._working(), Status.MAX_STEPS)
                break
            if self.skips:
                self._skip()
            if self.rounds < self.plan.max_steps:
                self.rounds += 1
                self._round()
        found.filled = saver.filled
        return found

    def _skip(self) -> None:
        """Rounds of which only the lanes need know, if there is a quick way to take them."""
        lanes, before = self.lanes, self.problem.field.evaluations
        recorder = self.recorder
        found = self.attempts.skip(
            lanes,
            self.saver.due,
            most=self.plan.max_steps - self.rounds,
            done=max(lanes.rest, (len(lanes) - 1) // self.attempts.crowd),
            record=recorder is not None,
        )
        self.common += self.problem.field.evaluations - before
        if found is None or not found.number:
            return
        self.rounds += found.number
        self.split += found.number
        ends = [*(y for *_, y in found.rounds[1:]), found.onward.y]
        for number, ((t, t_next, y), y1) in enumerate(zip(found.rounds, ends, strict=False)):
            if number in found.steps:
                lanes.t, lanes.y = t, y
                self._take(found.steps[number], t_next, t_next > t, None, still=True)
            elif recorder is not None:
                assert isinstance(recorder, SkipRecorder)
                recorder.skipped(Round(lanes.samples, t, t_next, y, None, None), y1)
        found.onward.lead(lanes, found.h)
        if self.plan.on_step is not None:
            self.plan.on_step(lanes.progress(self.problem.t0))

    def _working(self) -> Tensor:
        """Positions of the lanes that are not at rest."""
        lanes = self.lanes
        if lanes.awake is None:
            return torch.arange(len(lanes), device=lanes.t.device)
        return lanes.awake.nonzero().squeeze(1)

    def _start(self) -> None:
        """First slopes and first steps."""
        problem, plan, lanes = self.problem, self.plan, self.lanes
        self.common = 1
        if problem.f0 is not None and not torch.is_grad_enabled():
            lanes.first = problem.f0
        else:
            slope = lanes.field(lanes.t.to(self.stepper.time_dtype), problem.y0)
            lanes.first = slope if slope.requires_grad else slope.clone()
        if plan.dt0 is not None:
            lanes.h = plan.dt0
            return
        with torch.no_grad():
            y0, slope = problem.y0.detach(), lanes.first.detach()
            lanes.h = initial_steps(
                lambda t, y: lanes.field(t.to(self.stepper.time_dtype), y),
                problem.t0,
                y0,
                slope,
                problem.t1,
                plan.solver.error_order,
                LaneTolerance(plan, y0).scale(y0),
                plan.norm,
            )
        self.common = 2
        lost = lanes.h.isnan()
        if bool(lost.any()):
            self._fail(lost.nonzero().squeeze(1), Status.NON_FINITE)
            self._leave()

    def _round(self) -> None:
        """Try one step of every lane."""
        lanes = self.lanes
        before = self.problem.field.evaluations
        tried = self.attempts.attempt(lanes)
        self.common += self.problem.field.evaluations - before
        step, t_next, verdict, h = tried.step, tried.t_next, tried.verdict, lanes.h
        accept = verdict.accept
        if accept is not None and torch.is_grad_enabled() and not math.isfinite(verdict.worst):
            rows, evaluated = accept.nonzero().squeeze(1), self.problem.field.evaluations
            step = Spread.again(step, self.stepper, lanes, t_next, rows)
            self._count(rows, evaluated)
        taken = accept
        if lanes.awake is not None:
            taken = lanes.awake if accept is None else accept & lanes.awake
        cut = None
        if self.watch is not None and (cut := self._cut(step, t_next, taken)) is not None:
            step, t_next = cut, t_next.index_copy(0, cut.hits.lanes, cut.passage.times)
        arrived = None
        if tried.reaching or cut is not None:
            arrived = self._arrived(t_next, taken, cut)
        tried = tried._replace(step=step, t_next=t_next)
        still = tried.onward is not None and tried.onward.still
        self._take(step, t_next, taken, arrived, still=still)
        self._advance(tried)
        if cut is not None:
            self._go_on(cut)
        self._settle(h, verdict, arrived)

    def _cut(self, step: LaneStep, t_next: Tensor, taken: Tensor | None) -> Cut | None:
        """The step with its events, if there are any."""
        assert self.watch is not None
        before = self.problem.field.evaluations
        cut = self.watch.cut(step, self.lanes, t_next, taken)
        if cut is not None:
            self._count(cut.hits.lanes, before)
            samples = self.lanes.samples.index_select(0, cut.hits.lanes)
            self.found.happened.append((samples, cut.hits, cut.passage.times, cut.passage.states))
        return cut

    def _go_on(self, cut: Cut) -> None:
        """Lanes go on from their events, or end there."""
        lanes, hits = self.lanes, cut.hits
        lanes.y = cut.onward(lanes.y)
        moved = hits.final.new_zeros(len(lanes)).index_fill(0, hits.lanes, True)
        # Lanes that have yet to take their first step after an earlier event start there still.
        lanes.moved = moved if lanes.moved is None else lanes.moved | moved
        ended = lanes.samples.index_select(0, hits.lanes[hits.final])
        self.found.status.index_fill_(0, ended, CODES.index(Status.EVENT))
        self.found.t_end.index_copy_(0, ended, hits.times[hits.final])

    def _arrived(self, t_next: Tensor, taken: Tensor | None, cut: Cut | None) -> Tensor | None:
        """Positions of lanes that reached the end of their solve in this round."""
        there = t_next == self.lanes.t1
        if cut is not None:
            there = there.index_fill(0, cut.hits.lanes[cut.hits.final], True)
        if taken is not None:
            there = there & taken
        found = there.nonzero().squeeze(1)
        return found if found.shape[0] else None

    def _take(
        self,
        step: LaneStep,
        t_next: Tensor,
        taken: Tensor | None,
        arrived: Tensor | None,
        *,
        still: bool,
    ) -> None:
        """Output, and what is remembered, of the steps that count.

        Args:
            step, t_next: the steps, and where they end.
            taken: which count; None for all.
            arrived: positions of lanes that reached the end of their solve; None for none.
            still: see `Onward`.
        """
        lanes, found = self.lanes, self.found
        starts, ends = lanes.t.detach(), t_next.detach()
        output = self.saver.output(lanes.samples, starts, ends, taken, arrived)
        if output is not None:
            times = self.problem.times
            traced = None
            if times is not None and times.ts is not None:
                traced = output.traced(times.ts)
            before = self.problem.field.evaluations
            found.outputs.append(output)
            found.rows.append(states_of(step, output, lanes.width, traced))
            self._count(output.owners, before)
        if self.recorder is None:
            return
        rows = None if taken is None or still else taken.nonzero().squeeze(1)
        if rows is None or rows.shape[0]:
            hits = None
            if isinstance(step, Cut):
                ends, hits = step.whole.detach(), step.hits
            round_ = Round(lanes.samples, starts, ends, lanes.y, rows, output, hits, lanes.moved)
            self.recorder.accepted(round_, step)

    def _advance(self, tried: Attempt) -> None:
        """Move on the lanes whose step was accepted."""
        lanes, (step, t_next, _, verdict, onward) = self.lanes, tried
        accept = verdict.accept
        if onward is not None:
            self.split += 1
            onward.lead(lanes, verdict.h_next)
            return
        lanes.h = verdict.h_next
        if accept is not None:
            self.split += 1
            lanes.accepted = lanes.accepted + accept
        if lanes.moved is not None:  # a lane that tries again still starts from its event
            lanes.moved = None if accept is None else lanes.moved & ~accept
        if accept is None:
            lanes.t, lanes.y, lanes.first = t_next, step.y1, step.last
            return
        rows = accept.unsqueeze(1)
        lanes.t = torch.where(accept, t_next, lanes.t)
        if isinstance(step, Spread):  # which has put the accepted lanes in their places
            lanes.y, lanes.first = step.y1, step.last
            return
        lanes.y = torch.where(rows, step.y1, lanes.y)
        if step.last is not None:
            lanes.first = torch.where(rows, step.last, step.first)
        else:  # known for those alone that try again from where they are
            lanes.first = None if bool(accept.any()) else step.first

    def _settle(self, h: Tensor, verdict: Verdict, arrived: Tensor | None) -> None:
        """Let go of the lanes that are done, and stop those that cannot go on."""
        lanes, ratio, accept = self.lanes, verdict.ratio, verdict.accept
        if arrived is not None:
            self._rest(arrived)
        failed = False
        shortest = verdict.shortest
        if accept is not None and not self.controller.adaptive:
            failed = self._stop(~accept, ratio)  # no shorter step is to come
        elif shortest < self.coarsest or shortest <= self.controller.min_step:
            failed = self._underflow(h, ratio, accept)
        if self.plan.on_step is not None:
            self.plan.on_step(lanes.progress(self.problem.t0))
        if failed or lanes.rest * self.attempts.crowd >= len(lanes):
            self._leave()

    def _underflow(self, h: Tensor, ratio: Tensor, accept: Tensor | None) -> bool:
        """Stop lanes whose next step would not move the time, or must not be that short.

        A step that ends the solve may be as short as it is.
        """
        lanes = self.lanes
        ahead = lanes.t1.detach() - lanes.t.detach() > lanes.h * (1.0 + STRETCH)
        short = lanes.h < _ULPS * _EPS * lanes.sizes(self.problem.t0)
        if accept is None:
            return self._stop(short & ahead, ratio)
        least = h <= self.controller.min_step
        return self._stop(torch.where(accept, short & ahead, short | least), ratio)

    def _stop(self, lanes: Tensor, ratio: Tensor) -> bool:
        """Stop the lanes that `lanes` says, if any, for what their last error ratio was."""
        if self.lanes.awake is not None:
            lanes = lanes & self.lanes.awake
        stopped = lanes.nonzero().squeeze(1)
        if not stopped.shape[0]:
            return False
        finite = ratio.isfinite().index_select(0, stopped)
        for which, status in ((finite, Status.STEP_UNDERFLOW), (~finite, Status.NON_FINITE)):
            if bool(which.any()):
                self._fail(stopped[which], status)
        return True

    def _fail(self, lanes: Tensor, status: Status) -> None:
        """These lanes stop here, for this reason."""
        samples = self.lanes.samples.index_select(0, lanes)
        self.found.status.index_fill_(0, samples, CODES.index(status))
        self.found.t_end.index_copy_(0, samples, self.lanes.t.detach().index_select(0, lanes))
        self._rest(lanes)

    def _rest(self, lanes: Tensor) -> None:
        """These lanes are done."""
        found, samples = self.found, self.lanes.samples.index_select(0, lanes)
        # A lane tries one step in each round until it is done.
        rejected = self.split - self.lanes.accepted.index_select(0, lanes)
        tried = self.rounds - self.lanes.idle.index_select(0, lanes)
        found.rejected.index_copy_(0, samples, rejected)
        found.accepted.index_copy_(0, samples, tried - rejected)
        each = self.plan.solver.evaluations_per_step
        found.evaluations.index_add_(0, samples, self.common - each * (self.rounds - tried))
        self.lanes.put_to_rest(lanes)

    def _count(self, lanes: Tensor, before: int) -> None:
        """Count evaluations that were made for these lanes alone, since there were `before`."""
        made = self.problem.field.evaluations - before
        if made:
            samples = self.lanes.samples.index_select(0, lanes.unique())
            self.found.evaluations.index_add_(0, samples, torch.full_like(samples, made))

    def _leave(self) -> None:
        """Lanes at rest leave."""
        if not self.lanes.rest:
            return
        stay = self.lanes.drop_resting()
        self.attempts.keep(stay)
        self.saver.keep(stay)
        if self.watch is not None:
            self.watch.keep(stay)
        if self.recorder is not None:
            self.recorder.left(stay)
