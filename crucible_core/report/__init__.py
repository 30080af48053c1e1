"""What a person reads after a run: one document made of a Context, rendered in every format."""

from crucible_core.metrics import flatten, named_values, results
from crucible_core.report.render import RENDERERS, SUFFIXES, render_report
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
