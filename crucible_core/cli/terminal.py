"""What a run looks like in a terminal, and in a pipe."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import IO

from rich.console import Console, RenderableType
from rich.progress import Progress as Bars
from rich.progress import ProgressColumn, SpinnerColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from crucible_core.cli.plain import plain
from crucible_core.context import Context
from crucible_core.ir.gates import GateResult
from crucible_core.ir.vocabulary import GateStatus
from crucible_core.metrics import entries_of
from crucible_core.observers import Observer
from crucible_core.progress import ProgressUpdate
from crucible_core.report import report_on
from crucible_core.report.document import Paragraph, Picture
from crucible_core.report.document import Table as ReportTable
from crucible_core.run_state.attempt import current_attempt
from crucible_core.trace import Decision, Event, StageFailed, StageRetried, StageSkipped, StageStarted, StageSucceeded
from crucible_core.values.formatting import format_duration, format_value
from crucible_core.values.jsonable import shown_text
from crucible_core.values.messages import shorten

__all__ = [
    "ProgressDisplay",
    "make_console",
    "plain",
    "print_gates",
    "print_summary",
    "print_table",
    "show_log_lines_as_text",
    "styled",
]

PIPE_WIDTH = 400  # wide enough for a report's path in one cell
MAX_COLUMNS = 6
INTERVAL_ON_TERMINAL = 0.1
INTERVAL_IN_PIPE = 30.0
MAX_BARS = 8
MAX_WORDS = 40
LEFT_TO_THE_REPORT = frozenset({"Artifacts", "Decisions", "Gates", "Options", "Outputs", "What ran"})


class _LastingConsole(Console):
    def on_broken_pipe(self) -> None:
        # `crucible run FILE | head` stops reading, which is no reason to stop the run.
        self.quiet = True
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), self.file.fileno())


def make_console(stream: IO[str]) -> Console:
    """A console on `stream`; in a pipe, lines are not folded at a terminal's width."""
    piped = not stream.isatty()
    return _LastingConsole(
        file=stream, width=PIPE_WIDTH if piped else None, highlight=False, soft_wrap=piped, emoji=False, markup=False
    )


def styled(*parts: str | tuple[str, str]) -> Text:
    """One line of texts, or (text, style) pairs; nothing in a text is read as markup."""
    return Text.assemble(*(plain(part) if isinstance(part, str) else (plain(part[0]), part[1]) for part in parts))


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # The thread that logs a line knows the secrets of the options of the stage it runs.
        attempt = current_attempt.get()
        return plain((shown_text if attempt is None else attempt.readable)(super().format(record)))


def show_log_lines_as_text() -> None:
    """Keep control characters and secrets out of the log lines of stages.

    Has no effect if the program has log handlers of its own.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PlainFormatter())


class ProgressDisplay(Observer):
    """An observer that shows each stage as it starts, decides and ends, and the progress of its long work.

    On a terminal, a moving line and a bar for each piece of work in progress; in a pipe, a line now and then.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._ended = 0
        self._live = Bars(_Mark(), _Words(), _Bar(), _Numbers(), console=console, transient=True)
        self._bars: dict[int, TaskID] = {}
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        self.interval = INTERVAL_ON_TERMINAL if console.is_terminal else INTERVAL_IN_PIPE

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def on_event(self, event: Event) -> None:
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
                self._end(("✗", "red"), name, (f"  {format_duration(event.seconds)}", "dim"))  # why is said at the end
            case StageRetried():
                self._stop_bars()
                why = f"attempt {event.attempt} failed: {event.reason}; again in {event.delay:.1f} s"
                self._console.print(styled("  ", ("↻", "yellow"), f" {name}  {why}"))
            case Decision():
                line = styled("      ", (event.decision, "cyan"), (f" (because: {event.reasoning})", "dim"))
                self._console.print(line, no_wrap=True, overflow="ellipsis")

    def on_progress(self, update: ProgressUpdate) -> None:
        if not self._console.is_terminal:
            self._print_now_and_then(update)
            return
        with self._lock:
            bar = self._bars.get(update.key)
            if update.ended:
                if bar is not None:
                    self._live.remove_task(self._bars.pop(update.key))
            elif bar is None:
                # Of deeply nested loops, the outer ones.
                if len(self._bars) < MAX_BARS:
                    self._bars[update.key] = self._live.add_task(update.description, total=None, update=update)
            else:
                self._live.update(bar, update=update)

    def _print_now_and_then(self, update: ProgressUpdate) -> None:
        with self._lock:
            last = self._told.setdefault(update.stage, time.monotonic())
            if time.monotonic() - last < self.interval:
                return
            self._told[update.stage] = time.monotonic()
        self._console.print(styled("      ", (update.describe(), "dim")))

    def _started(self, name: str) -> None:
        if not self._console.is_terminal:
            self._console.print(styled(f"  … {name}"))
            return
        self._stop_bars()
        self._live.add_task(name, total=None, place=f"{self._ended + 1} of {self._total}")
        self._live.start()

    def _end(self, mark: tuple[str, str], *line: str | tuple[str, str]) -> None:
        self._ended += 1
        self._stop()
        self._console.print(styled("  ", mark, " ", *line))

    def _stop(self) -> None:
        self._stop_bars()
        for task in self._live.task_ids:
            self._live.remove_task(task)
        if self._live.live.is_started:  # stopping what never started prints an empty line
            self._live.stop()

    def _stop_bars(self) -> None:
        with self._lock:
            for bar in self._bars.values():
                self._live.remove_task(bar)
            self._bars.clear()


class _Mark(SpinnerColumn):
    def render(self, task: Task) -> RenderableType:
        return Text("   ") if "update" in task.fields else super().render(task)


class _Words(ProgressColumn):
    def render(self, task: Task) -> Text:
        if "update" in task.fields:
            return styled((_one_line(task.fields["update"].description), "cyan"))
        return styled((_one_line(task.description), "bold"), (f" {task.fields['place']}", "dim"))


class _Bar(ProgressColumn):
    def render(self, task: Task) -> RenderableType:
        update: ProgressUpdate | None = task.fields.get("update")
        if update is None or not update.total:
            return Text("")
        return ProgressBar(total=update.total, completed=min(update.count, update.total), width=30)


class _Numbers(ProgressColumn):
    def render(self, task: Task) -> Text:
        update: ProgressUpdate | None = task.fields.get("update")
        if update is None:
            return styled((format_duration(task.elapsed or 0.0), "dim"))
        return styled((update.describe().removeprefix(f"{update.description}: "), "dim"))


def _one_line(text: str) -> str:
    return shorten(" ".join(text.split()), MAX_WORDS)


GATE_MARKS: Mapping[GateStatus, tuple[str, str]] = {
    "failed": ("✗", "red"),
    "passed": ("✓", "green"),
    "undecided": ("?", "yellow"),
}


def print_summary(console: Console, ctx: Context, *, answer: bool = True) -> None:
    """The answer, the gates, the numbers behind the answer, and where the report is, which has everything else."""
    document = report_on(ctx)
    if answer:
        console.print()
    for block in document.blocks if answer else ():
        if isinstance(block, Paragraph) and block.strong:
            console.print(styled((block.text, "bold")))
    print_gates(console, ctx.trace.gates)
    for section in document.sections:
        if section.title in LEFT_TO_THE_REPORT or all(isinstance(block, Picture) for block in section.blocks):
            continue
        console.print(styled("\n", (section.title, "bold")))
        for place, block in enumerate(section.blocks):
            if isinstance(block, ReportTable):
                if place:
                    console.print()
                print_table(console, block)
            elif isinstance(block, Paragraph) and place == 0:
                console.print(styled((block.text, "dim")))
    if ctx.artifacts:
        console.print()
    for name, where in entries_of(ctx.artifacts):
        console.print(styled((f"{name}  ", "dim"), format_value(where)))


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
        # Transposed, so that no column is squeezed to a few letters.
        columns = (table.columns[0], *(row[0] for row in table.rows))
        rows = tuple((name, *(row[index + 1] for row in table.rows)) for index, name in enumerate(table.columns[1:]))
        table = ReportTable(columns, rows)
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in table.columns:
        shown.add_column(styled(column), justify="right" if column in table.numeric else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(styled, row))
    console.print(shown)
