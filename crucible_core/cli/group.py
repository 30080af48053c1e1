"""The command line: `crucible run`, `validate`, `init`, `lock`, `stages`, `schema`, and what installed packages add.

Exit codes: 0 done, 1 the experiment or one of its gates failed, 2 the input is wrong, 130 interrupted.

`crucible --help` imports this module, and none of the commands.
"""

from __future__ import annotations

import io
import sys

import click

from crucible_core import __version__
from crucible_core.cli.extensions import HELP, CommandGroup, LazyCommand

__all__ = ["main"]


@click.group(cls=CommandGroup, context_settings=HELP)
@click.version_option(__version__, prog_name="crucible")
def main() -> None:
    """Experiments as small files, run as pipelines of stages."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a pipe that takes ASCII only gets escapes, not a crash


for _name, _help, _module in (
    ("run", "Run the experiment in FILE and show its result.", "commands"),
    ("init", "Make a folder with an experiment, its stages and a test.", "init"),
    ("lock", "Write down what the experiment in FILE declares, before it is run.", "lock"),
    ("schema", "Print the JSON Schema of the experiment file, for editors.", "commands"),
    (
        "stages",
        "List the registered stages, or describe the stage NAME (registered, or package.module:Class).",
        "commands",
    ),
    (
        "validate",
        "Check experiment files without running them: the file, every stage, every option, every variant.",
        "commands",
    ),
):
    main.add_command(LazyCommand(_name, _help, f"crucible_core.cli.{_module}:{_name}"))
