"""Pictures of the report: plain numbers in, a small SVG with its alternative text out. Nothing heavy is imported."""

from crucible_bench.plots.critical_difference import critical_difference
from crucible_bench.plots.curve import CurvePoint, curve
from crucible_bench.plots.forest import ForestRow, forest_plot
from crucible_bench.plots.heat_map import heat_map
from crucible_bench.plots.paired import paired_lines
from crucible_bench.plots.picture import Picture
from crucible_bench.plots.points import line_of_points
from crucible_bench.plots.power import power_curve
from crucible_bench.plots.run_chart import run_chart
from crucible_bench.plots.strip import strip_plot

__all__ = [
    "CurvePoint",
    "ForestRow",
    "Picture",
    "critical_difference",
    "curve",
    "forest_plot",
    "heat_map",
    "line_of_points",
    "paired_lines",
    "power_curve",
    "run_chart",
    "strip_plot",
]
