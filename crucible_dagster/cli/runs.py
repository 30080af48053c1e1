"""The commands about recorded runs: `crucible runs`, `show`, `compare`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from rich.console import Console
from rich.text import Text
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from crucible_bench.finding import effect_text, percent
from crucible_bench.numbers import format_interval, format_number, format_p
from crucible_core import CrucibleError
from crucible_core.cli.common import input_errors, json_option, nothing_else_on_stdout
from crucible_core.cli.terminal import make_console, plain, print_gates, print_table, styled
from crucible_core.metrics import comparisons_in
from crucible_core.report import TRACE_FORMATS, TraceFormat, flatten, render_trace
from crucible_core.report.comparison_section import comparison_section
from crucible_core.report.document import Table
from crucible_core.report.run_report import decisions_table
from crucible_core.report.spending_section import spending_table
from crucible_core.report.tables import csv_of_records, parquet_of_records
from crucible_core.report.trials_section import trials_table
from crucible_core.run_state.spending import SPENT, spent_in
from crucible_core.values.formatting import format_duration, format_value
from crucible_core.values.jsonable import to_json_text, to_jsonable
from crucible_core.values.messages import shorten
from crucible_dagster.cli.home import open_existing_instance
from crucible_dagster.history.group_changes import GroupChange
from crucible_dagster.history.history import Change, History
from crucible_dagster.history.record_diff import code_of, git_of
from crucible_dagster.history.run_record import Launch, RunRecord
from crucible_dagster.history.summaries import RunChoices, RunComparison, RunDetails, RunStatus, RunSummary, row_of

__all__ = []

T = TypeVar("T")

SHORT = 8
MAX_RESULT = 70
MAX_CHOSEN = 60
ALL = 2**31 - 1


@click.command()
@click.argument("experiment", required=False)
@click.option("--limit", type=click.IntRange(min=1), help="How many runs (default: 20; all of them in a table).")
@click.option("--status", type=click.Choice(get_args(RunStatus)), help="Only runs of this status.")
@click.option("--before", metavar="RUN", help="Show the page after this run (the last run of the previous page).")
@click.option("--decision", metavar="TEXT", help="Only runs in which a decision, or its reason, has this text.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the runs with all their numbers as CSV.")
@click.option("--parquet", metavar="FILE", help="Write the same into FILE as Parquet.")
@json_option
def runs(
    experiment: str | None,
    limit: int | None,
    status: RunStatus | None,
    before: str | None,
    decision: str | None,
    as_csv: bool,
    parquet: str | None,
    as_json: bool,
) -> None:
    """List the runs that Dagster has kept, newest first.

    EXPERIMENT is an experiment's id; without it, the runs of all experiments are listed.
    """
    in_table = as_csv or parquet is not None
    limit = limit or (ALL if in_table else 20)
    with _history() as history:
        found = history.runs(experiment, status=status, limit=limit, before=before, decision=decision)
        chosen = {} if in_table else history.settings(found)
    if in_table:
        _write_table([{"experiment": one.experiment, **row_of(one)} for one in found], parquet)
        return
    if as_json:
        more = {run_id: {"seed": one.seed, "changed_options": one.options} for run_id, one in chosen.items()}
        click.echo(to_json_text([{**to_jsonable(one), **more.get(one.run_id, {})} for one in found]))
        return
    console = make_console(sys.stdout)
    if not found:
        console.print(styled("no runs" if before is None else f"no runs before {before}"))
        return
    columns: tuple[str, ...] = ("run", "experiment", "status", "started", "time", "launched", "result")
    rows = tuple(map(_run_row, found))
    if any(one.gates for one in found):
        columns = (*columns[:-1], "gates", columns[-1])
        rows = tuple((*row[:-1], one.gates or "", row[-1]) for row, one in zip(rows, found, strict=True))
    shown = [_chosen(chosen.get(one.run_id)) for one in found]
    if any(shown):
        columns = (*columns[:-1], "seed and changed options", columns[-1])
        rows = tuple((*row[:-1], said, row[-1]) for row, said in zip(rows, shown, strict=True))
    print_table(console, Table(columns, rows, frozenset({"time"})))
    if len(found) == limit:
        console.print(styled((f"\nolder ones: --before {found[-1].run_id[:SHORT]}", "dim")))


@click.command()
@click.argument("run")
@click.option("--ir", is_flag=True, help="Print only the experiment as it was run, as YAML.")
@click.option("--trace", type=click.Choice(sorted(TRACE_FORMATS)), help="Print only the trace, in this format.")
@json_option
def show(run: str, ir: bool, trace: TraceFormat | None, as_json: bool) -> None:
    """Show everything about one run.

    RUN is its id, or at least the first four characters of it. `crucible show RUN --ir > again.yaml` writes the
    experiment, with the options of the Launchpad, to a file that can be run again.
    """
    if ir:
        record = _ask(lambda history: _recorded(history, run))
        click.echo(_yaml(record), nl=False)
        return
    if trace is not None:
        text = render_trace(_ask(lambda history: history.context(run)).trace, trace)
        # JSON already escapes control characters that a terminal would obey.
        click.echo(text if trace == "json" else plain(text.replace("\r\n", "\n")).rstrip("\n"))
        return
    details = _ask(lambda history: history.run(run))
    if as_json:
        shown = to_jsonable(details)
        shown["decisions"] = [{"id": one.id, **to_jsonable(one)} for one in details.decisions]
        click.echo(to_json_text(shown))
    else:
        _print_details(make_console(sys.stdout), details)


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--values", is_flag=True, help="Also compare outputs, artifacts, assigns and traces, which loads them.")
@json_option
def compare(runs: tuple[str, ...], values: bool, as_json: bool) -> None:
    """Show how runs differ: two side by side, or more in one table.

    RUNS are ids, or at least the first four characters of them. If there are more than two, the groups of each are
    compared with those of the first.
    """
    if len(runs) == 1:
        raise click.UsageError(f"name another run to compare {runs[0]} with")
    found = _ask(lambda history: history.compare_all(runs, values=values))
    if as_json:
        told = list(map(_comparison_to_json, found))
        click.echo(to_json_text(told[0] if len(told) == 1 else told))
    elif len(found) == 1:
        _print_comparison(make_console(sys.stdout), found[0])
    else:
        _print_comparisons(make_console(sys.stdout), found)


@click.command()
@click.argument("run")
@click.option("--failed", is_flag=True, help="Only the trials that failed.")
@click.option("--csv", "as_csv", is_flag=True, help="Print all columns as CSV.")
@click.option("--parquet", metavar="FILE", help="Write all columns into FILE as Parquet.")
@json_option
def trials(run: str, failed: bool, as_csv: bool, parquet: str | None, as_json: bool) -> None:
    """List the trials of one run: which arm, which replicate, how it ended, what it measured.

    RUN is its id, or at least the first four characters of it. If the run has not gathered its trials yet, those that
    have ended so far are listed.
    """
    found = _ask(lambda history: history.trials(run))
    shown = [row for row in found if row["status"] != "succeeded"] if failed else found
    if as_json:
        click.echo(to_json_text([dict(row) for row in shown]))
    elif as_csv or parquet is not None:
        _write_table(shown, parquet)
    elif not shown:
        say = f"none of its {len(found):,} trials failed" if found else "this run has no trials"
        click.echo(plain(f"run {run}: {say}"))
    else:
        columns = [
            name for name in dict.fromkeys(name for row in shown for name in row) if name not in ("stage", "error")
        ]
        ended = [name for name in ("stage", "error") if any(row.get(name) for row in shown)]
        print_table(make_console(sys.stdout), trials_table(shown, [*columns, *ended]))


def _write_table(records: Sequence[Mapping[str, Any]], parquet: str | None) -> None:
    """Write the records to the file as Parquet, or to standard output as CSV."""
    if parquet is None:
        click.echo(csv_of_records(records), nl=False)
        return
    with input_errors():
        file = Path(parquet)
        try:
            file.write_bytes(parquet_of_records(records))
        except OSError as error:
            raise CrucibleError(f"cannot write {file}: {error.strerror or error}") from error
    click.echo(plain(f"{file}: {len(records):,} rows"))


def _comparison_to_json(found: RunComparison) -> dict[str, Any]:
    metrics = [{**to_jsonable(one), "difference": to_jsonable(one.difference)} for one in found.metrics]
    groups = [one.to_dict() for one in found.groups]
    return {**to_jsonable(replace(found, groups=())), "metrics": metrics, "groups": groups}


@contextmanager
def _history() -> Iterator[History]:
    """The history of the instance that `crucible run --dagster` uses; wrong input ends the program with a message.

    Reading stored values may import modules; what these print goes to standard error.
    """
    with input_errors(), nothing_else_on_stdout(), open_existing_instance() as instance:
        yield History(instance)


def _ask(question: Callable[[History], T]) -> T:
    with _history() as history:
        return question(history)


def _recorded(history: History, run: str) -> RunRecord:
    record = history.record(run)
    if record is None:
        raise CrucibleError(f"run {history.find(run)} has no record: its first stage never started")
    return record


def _yaml(record: RunRecord) -> str:
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Careful
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 100
    stream = StringIO()
    yaml.dump(record.experiment, stream)
    beside = f"; its file was {record.source}, and its modules may be in that folder" if record.source else ""
    heading = plain(f"as run by {record.run_id}{beside}").replace("\n", "\\n")
    return f"# {record.experiment.get('id')}, {heading}\n{stream.getvalue()}"


class _Careful(SafeRepresenter):
    """Quotes every text except names; quotes names too if some version of YAML would not read them as text."""

    def text(self, text: str) -> Any:
        plain_name = _NAME.fullmatch(text) is not None and text.lower() not in _NOT_TEXT
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain_name else '"')


_Careful.add_representer(str, _Careful.text)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(:[A-Za-z_][A-Za-z0-9_.]*)?")
_NOT_TEXT = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


# --- runs -------------------------------------------------------------------------------------------------------------


def _run_row(run: RunSummary) -> tuple[str, ...]:
    return (
        run.run_id[:SHORT],
        f"{run.experiment} ({run.variant})" if run.variant else run.experiment,
        run.status,
        f"{run.started or run.created:%Y-%m-%d %H:%M:%S}",
        "" if run.seconds is None else format_duration(run.seconds),
        _launched(run.launched),
        _result(run),
    )


def _chosen(chosen: RunChoices | None) -> str:
    if chosen is None:
        return ""
    seed = [] if chosen.seed is None else [f"seed={chosen.seed}"]
    options = [f"{name}={format_value(value)}" for name, value in chosen.options.items()]
    return shorten(", ".join([*seed, *options]), MAX_CHOSEN)


def _launched(launch: Launch) -> str:
    what = f"{launch.how} {launch.name}" if launch.name else launch.how
    return f"{what} by {launch.by}" if launch.by else what


def _result(run: RunSummary) -> str:
    return shorten(run.headline or "", MAX_RESULT)


# --- show -------------------------------------------------------------------------------------------------------------


def _print_details(console: Console, details: RunDetails) -> None:
    run, record, failure = details.summary, details.record, details.failure
    console.print(styled((f"{run.experiment} run {run.run_id}", "bold")))
    if run.headline or failure:
        console.print(styled(run.headline or f"Failed: {failure.reason if failure else ''}"))
    console.print()
    print_table(console, Table(("", " "), tuple(_identity(details))))
    stages = tuple(
        (
            one.name,
            one.outcome,
            f"{one.started:%H:%M:%S}" if one.started else "",
            "" if one.seconds is None else format_duration(one.seconds),
            "; ".join([*([f"{one.attempts} attempts"] if (one.attempts or 1) > 1 else []), *filter(None, [one.note])]),
        )
        for one in details.stages
    )
    _print_section(console, "What ran", ("stage", "outcome", "started", "time", "note"), stages, numeric={"time"})
    compared = comparisons_in(details.metrics)
    for name, comparison in compared.read.items():
        section = comparison_section(name, comparison)
        console.print(styled((f"\n{section.title}", "bold")))
        for block in section.blocks:
            if isinstance(block, Table):
                print_table(console, block)
    for name, reason in compared.unread.items():
        console.print(styled((f"\nComparison: {name}\n", "bold")))
        console.print(styled(reason))
    unfinished = () if failure is None else failure.unfinished
    rest = {
        f"{name} (unfinished)" if f"metrics.{name}" in unfinished else name: value
        for name, value in details.metrics.items()
        if name not in {*compared.read, "validate"} and not (name == SPENT and spent_in(details.metrics))
    }
    metrics = tuple((name, format_value(value)) for name, value in flatten(rest))
    _print_section(console, "Metrics", ("metric", "value"), metrics, numeric={"value"})
    limits: Any = record and record.experiment.get("budget")
    spending = spending_table(details.metrics, limits)
    _print_section(console, "Spending", spending.columns, spending.rows, numeric=spending.numeric)
    print_gates(console, details.gates)
    artifacts = tuple(
        (f"{name} (unfinished)" if f"artifacts.{name}" in unfinished else name, format_value(value))
        for name, value in details.artifacts.items()
    )
    _print_section(console, "Artifacts", ("artifact", "where"), artifacts)
    decisions = decisions_table(details.decisions)
    _print_section(console, "Decisions", decisions.columns, decisions.rows, numeric=decisions.numeric)
    if record is not None:
        options = [
            (one.name, name, format_value(value)) for one in record.stages for name, value in one.options.items()
        ]
        _print_section(console, "Options", ("stage", "option", "value"), tuple(options))
        code = tuple(
            (one.name, code_of(one) + (f", from run {one.from_run[:SHORT]}" if one.from_run else ""))
            for one in record.stages
        )
        _print_section(console, "Code", ("stage", "class and hash of its code"), code)
    for note in details.notes:
        console.print(styled(("\nnote: ", "yellow"), note))
    if failure is not None:
        blocked = any(one.blocks for one in details.gates)
        where = f"stage {failure.stage}" if failure.stage else "a gate" if blocked else "outside its stages"
        console.print(styled(("\nFailure", "bold"), f" ({where})\n"))
        console.print(Text(plain((failure.traceback or failure.reason).rstrip())))


def _identity(details: RunDetails) -> Iterator[tuple[str, str]]:
    run, record = details.summary, details.record
    yield "status", run.status
    if run.variant:
        yield "variant", run.variant
    if run.started:
        yield "started", f"{run.started:%Y-%m-%d %H:%M:%S} UTC"
    if run.seconds is not None:
        yield "time", format_duration(run.seconds)
    yield "launched", _launched(run.launched)
    if run.parent:
        yield "executes again", run.parent
    if record is not None:
        yield "file", record.source or "none: made in code"
        yield "git", git_of(record) or "not in a repository"
        yield "on", f"{record.host}, {record.platform}, Python {record.python}"
        yield "packages", ", ".join(f"{name} {version}" for name, version in record.packages.items())
        if (seed := record.experiment.get("seed")) is not None:
            yield "seed", str(seed)
        if record.seeds:
            yield "seeds", ", ".join(f"{stage} {seed}" for stage, seed in record.seeds.items())


def _print_section(
    console: Console,
    title: str,
    columns: tuple[str, ...],
    rows: tuple[tuple[str, ...], ...],
    *,
    numeric: frozenset[str] | set[str] = frozenset(),
) -> None:
    if rows:
        console.print(styled((f"\n{title}", "bold")))
        print_table(console, Table(columns, rows, frozenset(numeric)))


# --- compare ----------------------------------------------------------------------------------------------------------


def _print_comparison(console: Console, found: RunComparison) -> None:
    a, b = found.a, found.b
    both = tuple(
        (name, *(_run_row(run)[index] for run in (a, b)))
        for index, name in enumerate(("run", "experiment", "status", "started", "time", "launched"))
    )
    print_table(console, Table(("", "a", "b"), both))
    metrics = tuple(
        (one.name, *("–" if value is None else format_number(value) for value in (one.a, one.b, one.difference)))
        for one in found.metrics
    )
    _print_section(console, "Metrics", ("metric", "a", "b", "b - a"), metrics, numeric={"a", "b", "b - a"})
    groups = tuple(map(_group_row, found.groups))
    _print_section(console, "Groups", GROUP_COLUMNS, groups, numeric={"b - a", "p adjusted"})
    assumed = dict.fromkeys(line for one in found.groups if one.result for line in one.result.assumptions)
    if assumed:
        console.print(styled((f"assumed of both runs: {'; '.join(assumed)}", "dim")))
    parts: Mapping[str, tuple[Change, ...]] = {title: getattr(found, part) for title, part in PARTS.items()}
    for title, changes in parts.items():
        rows = tuple((one.name, _side(one.a), _side(one.b)) for one in changes)
        _print_section(console, title, ("what differs", "a", "b"), rows)
    if found.values is not None:
        _print_section(console, "Values", ("what differs",), tuple((name,) for name in found.values))
    if found.trace is not None:
        _print_section(console, "Trace", ("- a, + b",), tuple((line,) for line in found.trace))
    same = [title.lower() for title, changes in parts.items() if not changes]
    if found.values == ():
        same.append("values")
    if found.trace == ():
        same.append("trace")
    if same and not found.notes:
        console.print(styled((f"\nthe same: {', '.join(same)}", "dim")))
    for note in found.notes:
        console.print(styled(("\nnote: ", "yellow"), note))


def _print_comparisons(console: Console, found: tuple[RunComparison, ...]) -> None:
    summaries = [found[0].a, *(one.b for one in found)]
    names = tuple(one.run_id[:SHORT] for one in summaries)
    both = tuple(
        (name, *(_run_row(run)[index] for run in summaries))
        for index, name in enumerate(("run", "experiment", "status", "started", "time", "launched"))
    )
    print_table(console, Table(("", *(f"{number}" for number in range(1, len(names) + 1))), both))
    numbers = [{one.name: one.a for one in found[0].metrics}]
    numbers += [{one.name: one.b for one in comparison.metrics} for comparison in found]
    metrics = tuple(
        (name, *("–" if (value := run.get(name)) is None else format_number(value) for run in numbers))
        for name in dict.fromkeys(name for run in numbers for name in run)
    )
    _print_section(console, "Metrics", ("metric", *names), metrics, numeric=set(names))
    groups = tuple(
        (name, *_group_row(change))
        for name, comparison in zip(names[1:], found, strict=True)
        for change in comparison.groups
    )
    title = f"Groups (b is the run of the line, a is {names[0]})"
    _print_section(console, title, ("run", *GROUP_COLUMNS), groups, numeric={"b - a", "p adjusted"})
    for title, part in PARTS.items():
        changes = [{one.name: one for one in getattr(comparison, part)} for comparison in found]
        rows = []
        for name in dict.fromkeys(name for one in changes for name in one):
            # Runs that do not differ from the first one have its value.
            first = next(one[name].a for one in changes if name in one)
            rows.append((name, *map(_side, [first, *(one[name].b if name in one else first for one in changes)])))
        _print_section(console, title, ("what differs", *names), tuple(rows))
    for name, comparison in zip(names[1:], found, strict=True):
        lines = [(one,) for one in (*(comparison.values or ()), *(comparison.trace or ()))]
        _print_section(console, f"Values and trace, {names[0]} and {name}", ("what differs",), tuple(lines))
    for note in dict.fromkeys(note for one in found for note in one.notes):
        console.print(styled(("\nnote: ", "yellow"), note))


PARTS = {
    "Options": "options",
    "Experiment": "experiment",
    "Code": "code",
    "Surroundings": "surroundings",
    "Packages": "packages",
}
GROUP_COLUMNS = ("group", "n", "b - a", "interval", "p adjusted", "effect size", "verdict")


def _group_row(change: GroupChange) -> tuple[str, ...]:
    result = change.result
    if result is None:
        return change.name, "–", "–", "–", "–", "–", f"not compared: {change.reason}"
    significant = change.p_adjusted is not None and change.p_adjusted <= result.alpha
    verdict = "could not be told apart" if not significant else "b is higher" if result.estimate > 0 else "b is lower"
    counts = f"{result.n[0]}" if len(set(result.n)) == 1 else f"{result.n[1]}, {result.n[0]}"
    return (
        change.name,
        counts,
        format_number(result.estimate),
        f"{percent(result.confidence_level)} {format_interval(result.confidence_interval)}",
        "–" if change.p_adjusted is None else format_p(change.p_adjusted).removeprefix("= "),
        effect_text(result.effect_size_name, result.effect_size),
        f"{verdict} ({result.method})",
    )


def _side(value: Any) -> str:
    return "–" if value is None else format_value(value)
