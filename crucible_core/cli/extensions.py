"""What other packages add to the command line, found by entry points: commands, and places to run an experiment.

An entry of `crucible.commands` is a click command. An entry of `crucible.runners` is a Runner, offered as
`crucible run --NAME`. Both are loaded by `crucible --help` too, so their modules should be light: see `LazyCommand`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from crucible_core.errors import CrucibleError
from crucible_core.values.entry_points import installed_entries
from crucible_core.values.messages import error_text

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from crucible_core.context import Context

__all__ = [
    "COMMANDS_GROUP",
    "HELP",
    "RUNNERS_GROUP",
    "CommandGroup",
    "LazyCommand",
    "RunCommand",
    "Runner",
    "chosen_runner",
]

T = TypeVar("T")

# On each command, because commands are used without the group too.
HELP = {"help_option_names": ["-h", "--help"]}

COMMANDS_GROUP = "crucible.commands"
RUNNERS_GROUP = "crucible.runners"


@dataclass(frozen=True)
class Runner:
    """A place to run an experiment other than this process."""

    help: str
    """Its text in `crucible run --help`."""
    where: str
    """For the heading of the run: `on Dagster`."""
    load: Callable[[], Callable[..., Context]]
    """Imports what it needs and returns `run(plan, *, run_id, observers, **options) -> Context`."""
    options: Sequence[click.Option] = ()
    """Further options of `crucible run` that go with this runner; their values reach `run` by name."""
    resumable: bool = False
    """Whether `crucible resume` can continue a failed run of this runner."""


class LazyCommand(click.Command):
    """A command with a name and a help text, whose module is imported only when the command is called.

    `target` is the command itself, as `package.module:attribute`. `prepare` is called before the import, to report what
    is not installed.
    """

    def __init__(self, name: str, help: str, target: str, prepare: Callable[[str], None] = lambda _: None) -> None:  # noqa: A002  # click's word
        super().__init__(name, help=help)
        self.target = target
        self.prepare = prepare

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        from crucible_core.cli.common import input_errors  # noqa: PLC0415  # the command needs it, --help does not

        with input_errors():
            self.prepare(f"crucible {self.name}")
            module, _, attribute = self.target.partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
        return command.make_context(info_name, args, parent, **extra)


@contextlib.contextmanager
def _our_words() -> Iterator[None]:
    """Print a mistake in the command line like every other mistake: `error: ...`, below the usage line."""
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, click.exceptions.Abort):
        raise
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        if context is not None:
            click.echo(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n", err=True)
        from crucible_core.cli.common import say  # noqa: PLC0415

        message = error.format_message()
        say(f"error: {message[:1].lower()}{message[1:]}")
        sys.exit(error.exit_code)


class CommandGroup(click.Group):
    """A group whose commands are its own and those of `crucible.commands`; its own come first."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _our_words():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _our_words():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(entry.name for entry in _entries(COMMANDS_GROUP) if entry.name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        entry = next((entry for entry in _entries(COMMANDS_GROUP) if entry.name == cmd_name), None)
        if entry is None:
            return None
        try:
            return _load(entry, click.Command)
        except CrucibleError as error:  # reported when the command is called; the others work
            return LazyCommand(cmd_name, f"({error})", "", prepare=functools.partial(_refuse, error))


class RunCommand(click.Command):
    """`crucible run`, with a flag for each runner, and the runners' options."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        *own, help_option = super().get_params(ctx)
        added: list[click.Parameter] = []
        for name, runner in runners().items():
            added += [click.Option([f"--{name}"], is_flag=True, help=runner.help), *runner.options]
        return [*own, *added, help_option]


def chosen_runner(options: Mapping[str, Any]) -> tuple[Runner | None, dict[str, Any]]:
    """The runner whose flag is set among the options of `crucible run`, and the values of its own options.

    Raises CrucibleError for two flags, or an option of a runner that is not chosen.
    """
    known = runners()
    flagged = [name for name in known if options[_parameter(name)]]
    if len(flagged) > 1:
        raise CrucibleError(
            f"a run has one place to run: give only one of {', '.join(f'--{name}' for name in flagged)}"
        )
    # Not compared with the option's default: that of a flag is False in one version of click, and unset in another.
    source = click.get_current_context().get_parameter_source
    for name, runner in known.items():
        given = [option for option in runner.options if source(str(option.name)) is not ParameterSource.DEFAULT]
        if given and name not in flagged:
            raise CrucibleError(f"{given[0].opts[0]} goes with --{name}")
    if not flagged:
        return None, {}
    runner = known[flagged[0]]
    return runner, {str(option.name): options[str(option.name)] for option in runner.options}


def _parameter(name: str) -> str:
    return name.replace("-", "_")


def runners() -> dict[str, Runner]:
    """The runners of the installed packages, by name; one that cannot be loaded says so when it is chosen."""
    found = {}
    for entry in _entries(RUNNERS_GROUP):
        try:
            found[entry.name] = _load(entry, Runner)
        except CrucibleError as error:
            found[entry.name] = Runner(help=f"({error})", where="", load=functools.partial(_refuse, error))
    return found


def _refuse(error: CrucibleError, *_: object) -> NoReturn:
    raise error


@functools.cache  # looking through all that is installed takes a while
def _entries(group: str) -> list[EntryPoint]:
    return installed_entries(group)


def _load(entry: EntryPoint, kind: type[T]) -> T:
    """The object of an entry point. Raises CrucibleError if it cannot be loaded or is not a `kind`."""
    what = f"the entry point {entry.name!r} ({entry.value}) of {entry.group}"
    try:
        found = entry.load()
    except Exception as error:
        raise CrucibleError(f"{what} cannot be loaded: {error_text(error)}") from error
    if not isinstance(found, kind):
        raise CrucibleError(f"{what} is a {type(found).__name__}, not a {kind.__name__}")
    return found
