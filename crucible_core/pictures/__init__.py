"""Pictures of the report: plain numbers in, a small SVG with its alternative text out. Nothing heavy is imported."""

from crucible_core.pictures.forest import ForestRow, forest_plot
from crucible_core.pictures.pairs import paired_lines
from crucible_core.pictures.picture import Picture
from crucible_core.pictures.power import power_curve
from crucible_core.pictures.ranks import critical_difference
from crucible_core.pictures.runs import run_chart
from crucible_core.pictures.strips import strip_plot

__all__ = [
    "ForestRow",
    "Picture",
    "critical_difference",
    "forest_plot",
    "paired_lines",
    "power_curve",
    "run_chart",
    "strip_plot",
]
