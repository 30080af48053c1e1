"""`crucible init`: a folder to begin with."""

from __future__ import annotations

import re
from pathlib import Path

import click

from crucible_core.cli.commands import schema_text
from crucible_core.cli.common import input_errors
from crucible_core.cli.extensions import HELP
from crucible_core.cli.plain import plain
from crucible_core.cli.templates import TEMPLATES
from crucible_core.errors import CrucibleError
from crucible_core.report.output_files import write_atomically

__all__ = ["init"]

SCHEMA = "experiment.schema.json"


@click.command(context_settings=HELP)
@click.argument("folder", default=".")
@click.option("--template", type=click.Choice(list(TEMPLATES)), default="minimal", show_default=True)
def init(folder: str, template: str) -> None:
    """Make a folder with an experiment, its stages and a test.

    The templates: `minimal` compares two groups, `training` is a sweep of trials, `llm-eval` asks a model questions
    several times (a made-up model, or an OpenAI-compatible server). FOLDER is the working directory by default.
    """
    with input_errors():
        root = Path(folder)
        name = _name_of(root)
        known = {"NAME": name, "MODULE": f"{name}_stages"}
        files = {_filled(file, known): _filled(text, known) for file, text in TEMPLATES[template].items()}
        files[SCHEMA] = schema_text() + "\n"
        there = [file for file in files if (root / file).exists()]
        if there:
            raise CrucibleError(f"{root / there[0]} exists already; name another folder, or move it away")
        for file, text in files.items():
            write_atomically(file, text, root)
    for file in files:
        click.echo(plain(str(root / file)))
    click.echo(plain(f"\nRun it:  crucible run {root / name}.yaml\nTest it: pytest {root}"))


def _name_of(folder: Path) -> str:
    """The name of the folder as an id that a module can begin with."""
    name = re.sub(r"\W+", "_", folder.absolute().name, flags=re.ASCII).strip("_").lower()
    return name if name and not name[0].isdigit() else f"experiment_{name}".rstrip("_")


def _filled(text: str, known: dict[str, str]) -> str:
    return re.sub("|".join(known), lambda found: known[found[0]], text)
