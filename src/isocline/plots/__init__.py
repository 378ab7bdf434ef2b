"""Figures: pure functions from data to `matplotlib.figure.Figure`. Needs ``isocline[train]``."""

from .figure3 import plot_figure3 as plot_figure3
from .flow_animation import animate_flow as animate_flow
from .flow_figures import DensityMatch as DensityMatch
from .flow_figures import plot_density_matching as plot_density_matching
from .flow_figures import plot_sequence as plot_sequence
from .flow_pairs import plot_pairs as plot_pairs
from .flow_panels import FlowFrame as FlowFrame
from .flow_panels import grid_points as grid_points
from .flows import plot_density as plot_density
from .flows import plot_divergence as plot_divergence
from .flows import plot_likelihood as plot_likelihood
from .flows import plot_samples as plot_samples
from .flows import plot_trajectories as plot_trajectories
from .style import new_figure as new_figure
from .style import save_figure as save_figure
from .style import style as style
from .training import plot_error as plot_error
from .training import plot_nfe as plot_nfe
