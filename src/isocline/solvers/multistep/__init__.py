"""Adams methods: explicit and predictor-corrector ones, of fixed and of variable order."""

from .adams import Adams as Adams
from .adams import AdamsBashforth as AdamsBashforth
from .adams import AdamsMoulton as AdamsMoulton
