"""What a run looks like in a terminal, and in a pipe."""

from __future__ import annotations

from types import TracebackType
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crucible_core.context import Context
from crucible_core.jsonable import safe_text
from crucible_core.reporting import headline, report_on
from crucible_core.reporting.document import Table as ReportTable
from crucible_core.reporting.numbers import format_duration
from crucible_core.trace import Decision, Event, StageFailed, StageRetried, StageSkipped, StageStarted, StageSucceeded

__all__ = ["Progress", "make_console", "print_summary"]

PIPE_WIDTH = 160
LEFT_TO_THE_REPORT = frozenset({"Decisions", "Options", "Outputs"})


def make_console(stream: IO[str]) -> Console:
    """A console on `stream`; in a pipe, lines are not folded at the width of a terminal that is not there."""
    return Console(
        file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=not stream.isatty()
    )


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
        name = escape(event.stage)
        match event:
            case StageStarted():
                self._started(name)
            case StageSucceeded():
                attempts = f", {event.attempts} attempts" if event.attempts > 1 else ""
                self._end("[green]✓[/]", f"{name}  [dim]{format_duration(event.seconds)}{attempts}[/]")
            case StageSkipped():
                self._end("[dim]–[/]", f"{name}  [dim]skipped ({escape(event.reason)})[/]")
            case StageFailed():
                why = escape(safe_text(event.reason))
                self._end("[red]✗[/]", f"{name}  [dim]{format_duration(event.seconds)}[/]  {why}")
            case StageRetried():
                why = escape(safe_text(event.reason))
                self._console.print(
                    f"  [yellow]↻[/] {name}  attempt {event.attempt} failed: {why}; again in {event.delay:.1f} s"
                )
            case Decision():
                self._console.print(
                    f"      [cyan]{escape(safe_text(event.decision))}[/] [dim]{escape(safe_text(event.reasoning))}[/]"
                )

    def _started(self, name: str) -> None:
        if self._status is None:
            self._console.print(f"  … {name}")
        else:
            self._status.update(f"[bold]{name}[/] [dim]{self._ended + 1} of {self._total}[/]")
            self._status.start()

    def _end(self, mark: str, line: str) -> None:
        self._ended += 1
        self._console.print(f"  {mark} {line}")


def print_summary(console: Console, ctx: Context) -> None:
    """The report's comparison, metrics, stages and artifacts, and the result in one sentence at the end."""
    for section in report_on(ctx).sections:
        if section.title in LEFT_TO_THE_REPORT:
            continue
        console.print(f"\n[bold]{escape(section.title)}[/]")
        for block in section.blocks:
            if isinstance(block, ReportTable):
                _print_table(console, block)
    console.print(f"\n[bold]{escape(safe_text(headline(ctx)))}[/]")


def _print_table(console: Console, table: ReportTable) -> None:
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in table.columns:
        shown.add_column(escape(column), justify="right" if column in table.numeric else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(safe_text(cell)) for cell in row))
    console.print(shown)
