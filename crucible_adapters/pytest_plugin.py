"""A plugin of pytest: `pytest experiments/ --crucible` runs each experiment file, and each gate is a test.

pytest imports this module wherever both are installed, so it imports nothing of the project before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from crucible_core.context import Context
    from crucible_core.ir.experiment import Experiment
    from crucible_core.ir.gates import GateResult
    from crucible_core.plan import Plan

SUFFIXES = (".yaml", ".yml", ".json")
HAS_PIPELINE = re.compile(r"""^\s*\{?\s*["']?pipeline["']?\s*:""", re.MULTILINE)
ASKED = "crucible"


class RunExperiment(Protocol):
    """What the fixture `run_experiment` gives."""

    def __call__(
        self,
        experiment: str | Path | Experiment,
        *,
        variant: str | None = None,
        seed: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        assigns: Mapping[str, Any] | None = None,
    ) -> Context:
        """Run an experiment, or the one in a file, relative to the test's; `options` is stage -> option -> value."""


def pytest_addoption(parser: pytest.Parser) -> None:
    said = "collect experiment files: run each one, and make each of its gates a test"
    parser.getgroup("crucible").addoption("--crucible", action="store_true", default=None, help=said)
    parser.addini(ASKED, said, type="bool", default=False)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix not in SUFFIXES:
        return None
    if not (parent.config.getoption(ASKED) or parent.config.getini(ASKED)):
        return None
    if not parent.session.isinitpath(file_path) and not _may_be_experiment(file_path):
        return None
    collector: pytest.Collector = ExperimentFile.from_parent(parent, path=file_path)
    return collector


def _may_be_experiment(path: Path) -> bool:
    """Whether the file has a pipeline: a folder may contain other files too."""
    try:
        return HAS_PIPELINE.search(path.read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return False


class ExperimentFile(pytest.File):
    """An experiment file: a test that runs it, and one for each of its gates."""

    plan: Plan
    _ended: tuple[Context | None, BaseException | None] | None = None

    def collect(self) -> Iterator[pytest.Item]:
        from crucible_core import InvalidExperimentError, builtin_registry, load_experiment, plan_experiment  # noqa: PLC0415

        try:
            self.plan = plan_experiment(load_experiment(self.path), builtin_registry())
        except InvalidExperimentError as error:
            raise self.CollectError(str(error)) from None
        yield RunItem.from_parent(self, name="run")
        for gate in self.plan.experiment.gates or ():
            yield GateItem.from_parent(self, name=f"gate[{gate.name}]", gate=gate.name)

    def ended(self) -> tuple[Context | None, BaseException | None]:
        """The last Context and the error that ended the run. The first call runs the experiment."""
        from crucible_core import CrucibleError, GateFailedError, StageFailedError, run_experiment  # noqa: PLC0415

        if self._ended is None:
            try:
                self._ended = run_experiment(self.plan), None
            except GateFailedError as error:
                self._ended = error.context, None
            except StageFailedError as error:
                self._ended = error.context, error
            except CrucibleError as error:
                self._ended = None, error
        return self._ended


class _Item(pytest.Item):
    parent: ExperimentFile

    def __init__(self, **known: Any) -> None:
        super().__init__(**known)
        if self.config.pluginmanager.hasplugin("xdist"):  # one process runs the experiment, for all of its tests
            self.add_marker(pytest.mark.xdist_group(self.parent.nodeid))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.path.name}: {self.name}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from crucible_core import CrucibleError, StageFailed, StageFailedError  # noqa: PLC0415

        error = excinfo.value
        if isinstance(error, StageFailedError):
            failed = next(event for event in reversed(error.context.trace.events) if isinstance(event, StageFailed))
            return f"{failed.traceback}\n{error}".strip()
        return str(error) if isinstance(error, CrucibleError | GateDidNotPass) else super().repr_failure(excinfo, style)


class RunItem(_Item):
    """Passes if every stage succeeds; the numbers and the finding are properties of the test, also in JUnit's XML."""

    def runtest(self) -> None:
        from crucible_core.report import headline, results  # noqa: PLC0415

        context, error = self.parent.ended()
        if context is not None:
            self.user_properties += [("run_id", context.run_id), ("finding", headline(context)), *results(context)]
        if error is not None:
            raise error


class GateItem(_Item):
    """Passes if the gate does. An undecided gate is skipped; a gate that only warns counts as an expected failure."""

    def __init__(self, *, gate: str, **known: Any) -> None:
        super().__init__(**known)
        self.gate = gate

    def runtest(self) -> None:
        context, error = self.parent.ended()
        judged: Iterable[GateResult] = () if context is None else context.trace.gates
        result = next((one for one in judged if one.gate == self.gate), None)
        if result is None:
            raise pytest.skip.Exception(f"the run did not get to its gates: {error}", _use_item_location=True)
        self.user_properties.append(("gate", f"{result.status}: {result.sentence}"))
        if result.fails:
            raise GateDidNotPass(result.sentence)
        if result.status == "undecided":
            raise pytest.skip.Exception(result.sentence, _use_item_location=True)
        if result.status == "failed":
            pytest.xfail(result.sentence)


class GateDidNotPass(Exception):
    """Its message is the gate's sentence."""


@pytest.fixture
def crucible_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, where reports are written and runs on Dagster are kept: DAGSTER_HOME."""
    home = tmp_path / "crucible"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(home / "reports"))
    return home


@pytest.fixture
def run_experiment(crucible_home: Path, request: pytest.FixtureRequest) -> RunExperiment:  # noqa: ARG001
    """Runs an experiment in this process and returns the last Context; reports are written below `crucible_home`."""
    return _runner(request.path.parent)


def _runner(folder: Path) -> Callable[..., Context]:
    def run(
        experiment: str | Path | Experiment,
        *,
        variant: str | None = None,
        seed: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        assigns: Mapping[str, Any] | None = None,
    ) -> Context:
        from crucible_core import builtin_registry, load_experiment  # noqa: PLC0415
        from crucible_core import run_experiment as run_here  # noqa: PLC0415

        made = load_experiment(folder / experiment) if isinstance(experiment, str | Path) else experiment
        made = made if variant is None else made.with_variant(variant, builtin_registry())
        made = made if seed is None else made.with_seed(seed)
        for stage, changes in (options or {}).items():
            made = made.with_options(stage, changes)
        return run_here(made, assigns=assigns)

    return run
