"""What a run looks like in a terminal, and in a pipe."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crucible_core.context import Context
from crucible_core.gates import GateResult
from crucible_core.jsonable import safe_text
from crucible_core.reporting import headline, report_on
from crucible_core.reporting.document import Table as ReportTable
from crucible_core.reporting.numbers import format_duration
from crucible_core.trace import Decision, Event, StageFailed, StageRetried, StageSkipped, StageStarted, StageSucceeded
from crucible_core.vocabulary import GateStatus

__all__ = ["Progress", "make_console", "plain", "print_gates", "print_summary", "print_table", "styled"]

PIPE_WIDTH = 160
MAX_COLUMNS = 6
LEFT_TO_THE_REPORT = frozenset({"Decisions", "Options", "Outputs"})


class _LastingConsole(Console):
    def on_broken_pipe(self) -> None:
        # `crucible run FILE | head` stops reading, which is no reason to stop the run.
        self.quiet = True
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), self.file.fileno())


def make_console(stream: IO[str]) -> Console:
    """A console on `stream`; in a pipe, lines are not folded at the width of a terminal that is not there."""
    piped = not stream.isatty()
    return _LastingConsole(
        file=stream, width=PIPE_WIDTH if piped else None, highlight=False, soft_wrap=piped, emoji=False, markup=False
    )


def plain(text: str) -> str:
    """The text without what would speak to the terminal: its control characters are written as escapes."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in safe_text(text).expandtabs(4)
    )


def styled(*parts: str | tuple[str, str]) -> Text:
    """One line of texts, or (text, style) pairs; nothing in a text is read as markup."""
    return Text.assemble(*(plain(part) if isinstance(part, str) else (plain(part[0]), part[1]) for part in parts))


class Progress:
    """An observer that shows each stage as it starts, decides and ends: a spinner on a terminal, lines in a pipe."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._ended = 0
        self._status = console.status("") if console.is_terminal else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: Event) -> None:
        name = event.stage
        match event:
            case StageStarted():
                self._started(name)
            case StageSucceeded(reused_from=str(run_id)):
                self._end(("✓", "green"), name, (f"  reused from run {run_id}", "dim"))
            case StageSucceeded():
                attempts = f", {event.attempts} attempts" if event.attempts > 1 else ""
                self._end(("✓", "green"), name, (f"  {format_duration(event.seconds)}{attempts}", "dim"))
            case StageSkipped():
                self._end(("–", "dim"), name, (f"  skipped ({event.reason})", "dim"))
            case StageFailed():
                self._end(("✗", "red"), name, (f"  {format_duration(event.seconds)}  ", "dim"), event.reason)
            case StageRetried():
                why = f"attempt {event.attempt} failed: {event.reason}; again in {event.delay:.1f} s"
                self._console.print(styled("  ", ("↻", "yellow"), f" {name}  {why}"))
            case Decision():
                self._console.print(styled("      ", (event.decision, "cyan"), (f" {event.reasoning}", "dim")))

    def _started(self, name: str) -> None:
        if self._status is None:
            self._console.print(styled(f"  … {name}"))
        else:
            self._status.update(styled((name, "bold"), (f" {self._ended + 1} of {self._total}", "dim")))
            self._status.start()

    def _end(self, mark: tuple[str, str], *line: str | tuple[str, str]) -> None:
        self._ended += 1
        self._console.print(styled("  ", mark, " ", *line))


GATE_MARKS: Mapping[GateStatus, tuple[str, str]] = {
    "failed": ("✗", "red"),
    "passed": ("✓", "green"),
    "undecided": ("?", "yellow"),
}


def print_summary(console: Console, ctx: Context, gates: Iterable[GateResult] = ()) -> None:
    """The report's comparison, metrics, stages, artifacts, the gates, and the result in one sentence at the end."""
    for section in report_on(ctx).sections:
        if section.title in LEFT_TO_THE_REPORT:
            continue
        console.print(styled("\n", (section.title, "bold")))
        for block in section.blocks:
            if isinstance(block, ReportTable):
                print_table(console, block)
    print_gates(console, gates)
    console.print(styled("\n", (headline(ctx), "bold")))


def print_gates(console: Console, gates: Iterable[GateResult]) -> None:
    """One line per gate: passed, failed or undecided, and why."""
    for index, one in enumerate(gates):
        if index == 0:
            console.print(styled("\n", ("Gates", "bold")))
        note = "" if one.status == "passed" else " (blocking)" if one.blocks else f" ({one.severity})"
        mark = GATE_MARKS[one.status]
        console.print(styled("  ", mark, f" {one.gate}  ", (f"{one.status}{note}", mark[1]), f"  {one.sentence}"))


def print_table(console: Console, table: ReportTable) -> None:
    if len(table.columns) > MAX_COLUMNS and console.width < PIPE_WIDTH:
        # On its side, so that no column is squeezed to a few letters.
        columns = (table.columns[0], *(row[0] for row in table.rows))
        rows = tuple((name, *(row[index + 1] for row in table.rows)) for index, name in enumerate(table.columns[1:]))
        table = ReportTable(columns, rows)
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in table.columns:
        shown.add_column(styled(column), justify="right" if column in table.numeric else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(styled, row))
    console.print(shown)
