"""Classes of series, from what a recurrence knows after the last row."""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import InputError
from ...irregular import IrregularBatch
from .recurrence import Recurrence
from .rows import Rows

__all__ = ["SeriesClassifier", "make_head"]


class SeriesClassifier(nn.Module):
    """A recurrence over the rows, and a head on its last hidden state.

    With an `ODERNN` or a `GRUD` these are the classifiers of Rubanova et al. 2019, section 4.3, and
    Che et al. 2018.

    Args:
        recurrence: What reads the rows, forwards.
        outputs: Logits to give: one for each class, or a single one.
        width: Width of the head's hidden layer; ``None`` for a linear head.
        dropout: Share of the hidden state that the head drops in training.

    Raises:
        InputError: If a size is not positive, or the share is not below 1.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        outputs: int,
        *,
        width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.head = make_head(recurrence.hidden, outputs, width, dropout)

    def forward(self, batch: IrregularBatch, end: Tensor | float | None = None) -> Tensor:
        """Logits, ``(batch, outputs)``.

        Args:
            batch: The series.
            end: Time at which the hidden state is asked for, a number or ``(batch,)``; ``None`` for
                that of each series' last row.
        """
        _, hidden = self.recurrence.trace(Rows.forward(batch, end))
        logits: Tensor = self.head(hidden)
        return logits


def make_head(inputs: int, outputs: int, width: int | None, dropout: float) -> nn.Sequential:
    """Dropout and a linear layer, or two with ReLU between.

    Raises:
        InputError: If a size is not positive, or the share is not below 1.
    """
    for name, value in (("outputs", outputs), ("width", width)):
        if value is not None and value < 1:
            raise InputError(name, str(value), "at least 1")
    if not 0.0 <= dropout < 1.0:
        raise InputError("dropout", str(dropout), "a share below 1, 0 or more")
    if width is None:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, outputs))
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, outputs),
    )
