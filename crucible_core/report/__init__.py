"""What a person reads after a run: one document made of a Context, rendered in every format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crucible_core.values.lazy_names import lazy_names

if TYPE_CHECKING:
    from crucible_core.metrics import flatten, named_values, results
    from crucible_core.report.output_files import SUFFIXES
    from crucible_core.report.render import RENDERERS, render_report
    from crucible_core.report.run_report import headline, report_on, stages_table, summarize_run
    from crucible_core.report.traces import TRACE_FORMATS, TraceFormat, diff_traces, render_trace

__all__ = [
    "RENDERERS",
    "SUFFIXES",
    "TRACE_FORMATS",
    "TraceFormat",
    "diff_traces",
    "flatten",
    "headline",
    "named_values",
    "render_report",
    "render_trace",
    "report_on",
    "results",
    "stages_table",
    "summarize_run",
]

# The `report` stage checks its options with none of the renderers loaded.
_HOMES = {
    "RENDERERS": "render",
    "SUFFIXES": "output_files",
    "TRACE_FORMATS": "traces",
    "TraceFormat": "traces",
    "diff_traces": "traces",
    "flatten": "run_report",
    "headline": "run_report",
    "named_values": "run_report",
    "render_report": "render",
    "render_trace": "traces",
    "report_on": "run_report",
    "results": "run_report",
    "stages_table": "run_report",
    "summarize_run": "run_report",
}
__getattr__ = lazy_names(__name__, _HOMES)
