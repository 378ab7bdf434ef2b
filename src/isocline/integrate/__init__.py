"""The loops, saving and dense output. Nothing here knows of gradients."""

from .clock import Clock as Clock
from .dense import DenseOutput as DenseOutput
from .loop import Outcome as Outcome
from .loop import Recorder as Recorder
from .loop import Start as Start
from .loop import integrate as integrate
from .saving import Saver as Saver
from .still import stand_still as stand_still
