"""The loops, saving and dense output. Nothing here knows of gradients."""

from .clock import Clock as Clock
from .dense import DenseOutput as DenseOutput
from .dispatch import integrate as integrate
from .loop import Outcome as Outcome
from .loop import Recorder as Recorder
from .loop import Start as Start
from .saving import Saver as Saver
from .still import stand_still as stand_still
from .watch import Hit as Hit
from .watch import Reach as Reach
from .whole import Whole as Whole
from .whole import WholeRecorder as WholeRecorder
from .whole import WholeSolver as WholeSolver
