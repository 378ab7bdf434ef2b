"""Figures: pure functions from data to `matplotlib.figure.Figure`. Needs ``isocline[train]``."""

from .figure3 import plot_figure3 as plot_figure3
from .style import new_figure as new_figure
from .style import save_figure as save_figure
from .style import style as style
from .training import plot_error as plot_error
from .training import plot_nfe as plot_nfe
