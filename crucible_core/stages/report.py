"""The `report` stage."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from crucible_core.context import Context
from crucible_core.experiment import Experiment, OutputSpec
from crucible_core.output_root import output_root, path_problem, write_atomically
from crucible_core.reporting import SUFFIXES, render_report
from crucible_core.stage import Stage
from crucible_core.vocabulary import ReportFormat
from crucible_core.wording import listing

__all__ = ["Report"]

DEFAULT_OUTPUTS = (OutputSpec(name="report", formats=("markdown", "html")),)
KNOWN_OPTIONS = {"path", "title"}


class Report(Stage):
    """Writes what the experiment's `outputs` ask for: the result, the metrics, the decisions and what ran.

    Files go below the output root (`reports/`, or the folder that CRUCIBLE_OUTPUT_ROOT names), by default as
    EXPERIMENT/RUN/NAME.md and so on; `options.path` of an output names another place there. Each file becomes an
    artifact NAME.FORMAT. Without `outputs`, one report in Markdown and HTML is written.
    """

    def check(self, experiment: Experiment) -> Iterable[str]:
        for spec in experiment.outputs or ():
            unknown = set(spec.options or {}) - KNOWN_OPTIONS
            if unknown:
                yield f"output {spec.name!r}: unknown option {listing(map(repr, unknown))}; known: path, title"
            problem = path_problem(spec.path) if spec.path is not None else None
            if problem:
                yield f"output {spec.name!r}: {problem}"

    def run(self, ctx: Context) -> Context:
        wanted = [(spec, each) for spec in ctx.experiment.outputs or DEFAULT_OUTPUTS for each in spec.formats]
        # Before the first is written, so that each report names all of them.
        for spec, report_format in wanted:
            if spec.sink == "file":
                path = output_root() / _place(spec, report_format, ctx)
                ctx = ctx.put_artifact(f"{spec.name}.{report_format}", str(path))
        for spec, report_format in wanted:
            text = render_report(ctx, report_format, title=spec.title)
            if spec.sink == "file":
                write_atomically(_place(spec, report_format, ctx), text)
            else:
                sys.stdout.write(text)
                sys.stdout.flush()
        return ctx


def _place(spec: OutputSpec, report_format: ReportFormat, ctx: Context) -> str:
    place = spec.path if spec.path is not None else f"{ctx.experiment_id}/{ctx.run_id}/{spec.name}"
    named = next((end for end in SUFFIXES.values() if spec.path is not None and place.endswith(end)), "")
    return place.removesuffix(named) + SUFFIXES[report_format]
