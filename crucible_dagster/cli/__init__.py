"""The commands that read Dagster's storage."""

from __future__ import annotations

from collections.abc import Mapping

import click

from crucible_dagster.cli.rerun import replay, resume, why
from crucible_dagster.cli.runs import compare, runs, show
from crucible_dagster.cli.store import store
from crucible_dagster.cli.ticks import ticks

COMMANDS: Mapping[str, click.Command] = {
    "runs": runs,
    "show": show,
    "compare": compare,
    "resume": resume,
    "replay": replay,
    "why": why,
    "ticks": ticks,
    "store": store,
}
