"""The `report` stage."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import ClassVar

from crucible_core.context import Context
from crucible_core.errors import CrucibleError
from crucible_core.ir.experiment import Experiment, OutputSpec
from crucible_core.ir.vocabulary import ReportFormat
from crucible_core.report.output_files import (
    SUFFIXES,
    output_root,
    path_problem,
    write_atomically,
    write_to_bucket,
)
from crucible_core.stage import Stage
from crucible_core.values.messages import listing

__all__ = ["Report"]

DEFAULT_OUTPUTS = (OutputSpec(name="report", formats=("markdown", "html")),)
KNOWN_OPTIONS = ("path", "title")
OPTIONS_OF_S3 = ("bucket", "path", "prefix", "region", "title")
KEPT = ("file", "s3")


class Report(Stage):
    """Writes the reports in the experiment's `outputs`: the result, the metrics, the decisions and what ran.

    Files go below the output root (`reports/` in the project's folder, or the folder that CRUCIBLE_OUTPUT_ROOT names),
    by default as EXPERIMENT/RUN/NAME.md and so on; `options.path` of an output names another place there. Each file
    becomes an artifact NAME.FORMAT. With `sink: s3` they go below `options.prefix` in `options.bucket`, and the
    artifacts are URLs. Without `outputs`, one report in Markdown and HTML is written. A run of trials also
    has their whole table there, as the artifacts `trials.csv` and, where pyarrow is installed, `trials.parquet`.
    """

    gathers: ClassVar[bool] = True

    instead: ClassVar[Mapping[str, str]] = {
        "formats": "write it into the experiment's `outputs: [{name: report, formats: [markdown, json]}]`",
        "include_visualizations": "leave it out; a report in html has its charts",
        "sink": "write it into the experiment's `outputs: [{name: report, sink: file}]`",
    }

    def check(self, experiment: Experiment) -> Iterable[str]:
        written: dict[str, str] = {}
        for spec in experiment.outputs or ():
            if spec.name == "trials" and spec.sink == "file" and "csv" in spec.formats and _has_trials(experiment):
                yield "output 'trials': its file would have the name of the table of the trials; give it another name"
            yield from (f"output {spec.name!r}: {problem}" for problem in _problems(spec))
            if spec.path is None or spec.sink not in KEPT or _why_unwritten(spec):
                continue
            for place in (f"{_below(spec)}{PurePath(_suffixed(spec.path, each))}" for each in spec.formats):
                first = written.setdefault(place, spec.name)
                if first != spec.name:
                    yield f"output {spec.name!r}: it would overwrite output {first!r}; both are written to {place}"

    def advise(self, experiment: Experiment) -> Iterable[str]:
        for spec in experiment.outputs or ():
            if why := _why_unwritten(spec):
                yield f"the report will fail: {why}"

    def run(self, ctx: Context) -> Context:
        return _write(_with_trials(ctx), ctx.experiment.outputs or DEFAULT_OUTPUTS)

    def after_gates(self, ctx: Context) -> Context:
        """Write the files again, with the gates in them.

        A resumed run writes its own, and leaves those of the run that it resumes as they are.
        """
        return _write(ctx, [spec for spec in ctx.experiment.outputs or DEFAULT_OUTPUTS if spec.sink in KEPT])


def _with_trials(ctx: Context) -> Context:
    """The Context with the whole table of its trials as artifacts, beside the report; as it is without trials."""
    from crucible_core.report.tables import csv_of_records, has_parquet, parquet_of_records  # noqa: PLC0415
    from crucible_core.report.trials_section import TABLES, trial_rows  # noqa: PLC0415

    rows = trial_rows(ctx)
    if not rows:
        return ctx
    root = output_root(ctx.experiment.folder)
    for name, render in zip(TABLES, (csv_of_records, parquet_of_records if has_parquet() else None), strict=True):
        if render is not None:
            path = write_atomically(f"{ctx.experiment_id}/{ctx.run_id}/{name}", render(rows), root)
            ctx = ctx.put_artifact(name, str(path))
    return ctx


def _has_trials(experiment: Experiment) -> bool:
    return any(one.name == "trials" for one in experiment.pipeline)


def _write(ctx: Context, outputs: Sequence[OutputSpec]) -> Context:
    from crucible_core.report.render import render_report  # noqa: PLC0415  # `crucible validate` does without

    root = output_root(ctx.experiment.folder)
    unwritten = list(filter(None, map(_why_unwritten, outputs)))
    wanted = [(spec, each) for spec in outputs if not _why_unwritten(spec) for each in spec.formats]
    # Before the first is written, so that each report names all of them.
    for spec, report_format in wanted:
        if spec.sink in KEPT:
            place = _place(spec, report_format, ctx)
            where = str(root / place) if spec.sink == "file" else _below(spec) + place
            ctx = ctx.put_artifact(f"{spec.name}.{report_format}", where)
    for spec, report_format in wanted:
        text = render_report(ctx, report_format, title=spec.title)
        if spec.sink == "file":
            write_atomically(_place(spec, report_format, ctx), text, root)
        elif spec.sink == "s3":
            region = str((spec.options or {}).get("region") or "")
            write_to_bucket(_below(spec) + _place(spec, report_format, ctx), text, region)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
    if unwritten:  # after the others, so that those are not lost
        raise CrucibleError("; ".join(unwritten))
    return ctx


def _why_unwritten(spec: OutputSpec) -> str | None:
    """Why this report cannot be written here, although the experiment that asks for it can be run; None if it can."""
    if spec.sink == "postgres":
        return f"output {spec.name!r}: reports are not written to PostgreSQL; use `sink: file`, `s3` or `stdout`"
    if spec.sink == "s3" and not (spec.options or {}).get("bucket"):
        return f"output {spec.name!r}: `sink: s3` needs the name of a bucket: `options: {{bucket: NAME}}`"
    return None


def _below(spec: OutputSpec) -> str:
    """What stands before the place of its files: nothing, or the URL of the folder in the bucket, with a slash."""
    options = spec.options or {}
    if spec.sink != "s3":
        return ""
    prefix = str(options.get("prefix") or "").strip("/")
    return f"s3://{options.get('bucket')}/{prefix}{'/' if prefix else ''}"


def _problems(spec: OutputSpec) -> Iterator[str]:
    options = spec.options or {}
    if spec.sink == "postgres":  # carried with whatever it has
        return
    known = OPTIONS_OF_S3 if spec.sink == "s3" else KNOWN_OPTIONS
    below = "the bucket" if spec.sink == "s3" else None
    unknown = set(options).difference(known)
    if unknown:
        yield f"unknown option {listing(map(repr, unknown))}; known: {', '.join(known)}"
    for name in known:
        value = options.get(name)
        if not (value is None or isinstance(value, str)):
            yield f"{name} must be a text, not {value!r:.80}"
        elif name == "path" and value is not None:
            if PurePath(value).name in SUFFIXES.values():
                yield f"the path {value!r} has no file name before the suffix"
            places = (value, *(_suffixed(value, each) for each in spec.formats))
            yield from [problem for place in places if (problem := path_problem(place, below))][:1]


def _place(spec: OutputSpec, report_format: ReportFormat, ctx: Context) -> str:
    if spec.path is None:
        return f"{ctx.experiment_id}/{ctx.run_id}/{spec.name}{SUFFIXES[report_format]}"
    return _suffixed(spec.path, report_format)


def _suffixed(path: str, report_format: ReportFormat) -> str:
    said = next((end for end in SUFFIXES.values() if path.endswith(end)), "")
    return path.removesuffix(said) + SUFFIXES[report_format]
