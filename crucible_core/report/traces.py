"""A trace in each format, and the difference of two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Literal

from crucible_core.report.csv import csv_of
from crucible_core.report.document import Document, Section
from crucible_core.report.html import html_of
from crucible_core.report.markdown import markdown_of
from crucible_core.report.run_report import decisions_table, gates_table, stages_table
from crucible_core.trace import (
    GateJudged,
    StageFailed,
    StageRetried,
    StageSkipped,
    StageStarted,
    StageSucceeded,
    Trace,
)

__all__ = ["TRACE_FORMATS", "TraceFormat", "diff_traces", "render_trace"]

# Every field of every event, which a test counts, and what names it and the start of its stage.
CSV_COLUMNS: tuple[str, ...] = (
    "id", "parent", "at", "stage", "kind", "seconds", "attempts", "reused_from", "attempt", "delay", "decision",
    "reasoning", "alternatives", "confidence", "depends_on", "metadata", "error_type", "message", "reason", "traceback",
    "unfinished", "result",
)  # fmt: skip

TraceFormat = Literal["csv", "html", "json", "markdown", "mermaid"]


def render_trace(trace: Trace, trace_format: TraceFormat) -> str:
    """The trace as text; only `json` can be read back, with `Trace.from_json`."""
    return TRACE_FORMATS[trace_format](trace)


def diff_traces(left: Trace, right: Trace) -> tuple[str, ...]:
    """The differences, one line each, `-` from the left and `+` from the right trace; times do not count.

    The decisions of a stage are matched by what they say, in their order: one that was inserted is one difference.
    """
    lines: list[str] = []
    before, after = _facts(left), _facts(right)
    of_left, of_right = _decisions(left), _decisions(right)
    for stage in dict.fromkeys([*of_left, *of_right]):
        lines += _diff_decisions(stage, of_left.get(stage, []), of_right.get(stage, []))
    for place in dict.fromkeys([*before, *after]):
        if before.get(place) != after.get(place):
            lines += [f"- {place}: {before[place]}"] if place in before else []
            lines += [f"+ {place}: {after[place]}"] if place in after else []
    return tuple(lines)


def _facts(trace: Trace) -> dict[str, str]:
    facts: dict[str, str] = {}
    for event in trace.events:
        match event:
            case StageSucceeded(reused_from=str(run_id)):
                facts[event.stage] = f"reused from run {run_id}"
            case StageSucceeded():
                facts[event.stage] = f"succeeded{_attempts(event.attempts)}"
            case StageFailed():
                facts[event.stage] = f"failed{_attempts(event.attempts)}: {event.reason}"
            case StageSkipped():
                facts[event.stage] = f"skipped: {event.reason}"
            case StageRetried():
                facts[f"{event.stage}, attempt {event.attempt}"] = f"failed: {event.reason}"
            case GateJudged():
                facts[f"gate {event.result.gate}"] = f"{event.result.status}: {event.result.sentence}"
            case StageStarted():
                facts[event.stage] = "did not end"
    return facts


def _decisions(trace: Trace) -> dict[str, list[str]]:
    """What the decisions of each stage say, in order."""
    said: dict[str, list[str]] = {}
    decisions = trace.decisions
    # By what they say: ids are those of one run.
    texts = {one.id: one.decision for one in decisions} if any(one.depends_on for one in decisions) else {}
    for event in decisions:
        instead = f"; instead of {', '.join(event.alternatives)}" if event.alternatives else ""
        sure = "" if event.confidence is None else f"; {event.confidence:.0%} sure"
        upon = ", ".join(texts.get(one, one) for one in event.depends_on)
        upon = f"; depends on {upon}" if upon else ""
        more = f"; {json.dumps(event.metadata, ensure_ascii=False)}" if event.metadata else ""
        text = f"{event.decision}, because {event.reasoning}{instead}{sure}{upon}{more}"
        said.setdefault(event.stage, []).append(text)
    return said


def _diff_decisions(stage: str, left: Sequence[str], right: Sequence[str]) -> Iterator[str]:
    if left == right:  # a quick answer, however often a decision was made
        return
    for kind, low, high, start, end in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind != "equal":
            yield from (f"- {stage}, decision {place + 1}: {left[place]}" for place in range(low, high))
            yield from (f"+ {stage}, decision {place + 1}: {right[place]}" for place in range(start, end))


def _attempts(number: int) -> str:
    return f" in {number} attempts" if number > 1 else ""


def _document(trace: Trace) -> Document:
    tables = (
        ("What ran", stages_table(trace.events)),
        ("Decisions", decisions_table(trace.events)),
        ("Gates", gates_table(trace.gates)),
    )
    return Document("Trace", (), tuple(Section(title, (table,)) for title, table in tables if table.rows))


def _csv(trace: Trace) -> str:
    rows = [CSV_COLUMNS]
    parents = trace.parents
    for event in trace.events:
        values = {**event.to_dict(), "id": event.id, "parent": parents.get(event.id)}
        for nested in ("alternatives", "depends_on", "metadata", "unfinished", "result"):
            values[nested] = json.dumps(values[nested], ensure_ascii=False) if values.get(nested) is not None else ""
        rows.append(tuple("" if values.get(column) is None else str(values[column]) for column in CSV_COLUMNS))
    return csv_of(rows)


def _mermaid(trace: Trace) -> str:
    lines = ["flowchart TD"]
    previous = None
    nodes: dict[str, str] = {}
    for index, (stage, outcome, time, _) in enumerate(stages_table(trace.events).rows):
        lines.append(f'  s{index}["{_label(stage)}<br/>{outcome} {time}"]:::{outcome}')
        if previous is not None:
            lines.append(f"  s{previous} --> s{index}")
        for number, decision in enumerate(one for one in trace.decisions if one.stage == stage):
            lines.append(f'  s{index} -.- d{index}_{number}("{_label(decision.decision)}")')
            nodes[decision.id] = f"d{index}_{number}"
            lines += [f"  {nodes[one]} -.-> d{index}_{number}" for one in decision.depends_on if one in nodes]
        previous = index
    lines += [
        "  classDef succeeded fill:#d7f0dd,stroke:#2e7d32,color:#111",
        "  classDef reused fill:#d6e8fa,stroke:#1f5f99,color:#111",
        "  classDef failed fill:#f8d7da,stroke:#b3261e,color:#111",
        "  classDef skipped fill:#eceff1,stroke:#78909c,color:#111",
        "  classDef running fill:#fff3cd,stroke:#b58900,color:#111",
    ]
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    # Mermaid reads character references, and nothing else that is special between quotes.
    return "".join(
        char if char.isalnum() or char in " .,:_-=()" else f"#{ord(char)};" for char in " ".join(text.split())
    )


TRACE_FORMATS: Mapping[TraceFormat, Callable[[Trace], str]] = {
    "csv": _csv,
    "html": lambda trace: html_of(_document(trace)),
    "json": Trace.to_json,
    "markdown": lambda trace: markdown_of(_document(trace)),
    "mermaid": _mermaid,
}
