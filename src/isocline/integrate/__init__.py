"""The loops, saving and dense output. Nothing here knows of gradients."""

from .clock import Clock as Clock
from .dense import DenseOutput as DenseOutput
from .dispatch import integrate as integrate
from .lane_events import Cut as Cut
from .lane_events import Hits as Hits
from .lane_events import passage as passage
from .lanes import Lanes as Lanes
from .lanes import LaneTolerance as LaneTolerance
from .loop import Outcome as Outcome
from .loop import Recorder as Recorder
from .loop import Start as Start
from .per_sample import integrate_samples as integrate_samples
from .ragged import Output as Output
from .ragged import RaggedSaver as RaggedSaver
from .ragged import states_of as states_of
from .rounds import LaneRecorder as LaneRecorder
from .rounds import Round as Round
from .rounds import SampleOutcome as SampleOutcome
from .rounds import Spread as Spread
from .saving import Saver as Saver
from .still import stand_still as stand_still
from .watch import Hit as Hit
from .watch import Reach as Reach
from .whole import Whole as Whole
from .whole import WholeRecorder as WholeRecorder
from .whole import WholeSolver as WholeSolver
