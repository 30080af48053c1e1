"""Where files are: beside the experiment, in its project's folder, and fixed when a run begins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from crucible_core import (
    CrucibleError,
    Experiment,
    StageFailedError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
)
from crucible_core.cli import main
from crucible_core.values.messages import path_hint
from crucible_core.values.places import MARKERS, absolute, project_folder, report_folder

READS = """\
import os
from crucible_core import stage

@stage
def read(ctx, *, file: str = "data.csv"):
    return ctx.put_metric("rows", len(ctx.experiment.path(file).read_text().splitlines()))

@stage
def leave(ctx):
    os.chdir("/")
    return ctx

@stage
def fall(ctx):
    os.chdir("/")
    raise ValueError("fell")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work" / "exp"
    made.mkdir(parents=True)
    (made / "stages.py").write_text(READS)
    (made / "data.csv").write_text("1\n2\n")
    for name, more in {"read": "", "leave": "  - {name: report}\n", "fall": ""}.items():
        text = f"id: {name}\npipeline:\n  - {{name: {name}, module: 'stages:{name}'}}\n{more}"
        (made / f"{name}.yaml").write_text(text)
    return made


# --- beside the experiment --------------------------------------------------------------------------------------------


def test_a_path_is_relative_to_the_experiment_file_from_any_folder(folder: Path) -> None:
    assert run_experiment(load_experiment(folder / "read.yaml")).metrics["rows"] == 2


def test_a_path_of_an_experiment_made_in_code_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    made = Experiment.model_validate({"id": "a", "pipeline": [{"name": "validate"}]})
    assert made.path("x", "y.csv") == tmp_path / "x" / "y.csv"
    assert made.path("/x") == Path("/x")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "data.csv"), "use ctx.experiment.path('data.csv')"),
        (FileNotFoundError("data.csv not found."), "use ctx.experiment.path(...)"),
        (FileNotFoundError(2, "No such file or directory", "/data.csv"), None),
        (FileNotFoundError("/data.csv not found."), None),
        (FileNotFoundError("s3://bucket/data.csv"), None),
        (ValueError("data.csv"), None),
    ],
)
def test_an_error_says_what_a_relative_path_is_relative_to(error: Exception, said: str | None) -> None:
    hint = path_hint(error)
    assert (said is None and hint == "") or (said is not None and said in hint and str(Path.cwd()) in hint)


# --- the project ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", MARKERS)
def test_the_project_is_the_nearest_folder_with_a_mark(folder: Path, marker: str) -> None:
    assert project_folder(folder) == Path.cwd(), "without a mark, the working directory"
    (folder.parent / marker).mkdir()
    assert project_folder(folder) == folder.parent
    assert report_folder(folder) == folder.parent / "reports"
    (folder / "pyproject.toml").touch()
    assert project_folder(folder) == folder


def test_reports_are_in_the_project_and_it_is_said_where(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "pyproject.toml").touch()
    done = CliRunner().invoke(main, ["run", str(folder / "leave.yaml")])
    assert done.exit_code == 0, done.stderr
    assert list((folder.parent / "reports" / "leave").glob("*/report.md"))
    assert not (tmp_path / "reports").exists()
    assert f"are kept in {folder.parent}" in done.stdout.replace("\n", "")


def test_nothing_is_said_where_the_project_is_the_working_directory(folder: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(folder / "read.yaml")])
    assert "are kept in" not in done.stdout


# --- fixed when a run begins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [None, "there"])
def test_a_stage_that_leaves_the_working_directory_moves_no_report(
    folder: Path, tmp_path: Path, root: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if root:
        monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", root)
    context = run_experiment(load_experiment(folder / "leave.yaml"))
    assert Path.cwd() == Path("/")
    written = Path(context.artifacts["report.markdown"])
    assert written.is_relative_to(tmp_path / (root or "reports"))
    assert written.exists()


def test_partial_results_are_where_reports_would_have_been(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(folder / "fall.yaml")])
    assert done.exit_code == 1
    assert list((tmp_path / "reports" / "fall").glob("*/partial.json"))


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", "~/reports")
    assert report_folder() == tmp_path / "home" / "reports"
    assert absolute("a", "X", tmp_path / "base") == tmp_path / "base" / "a"
    with pytest.raises(CrucibleError, match="X=~nobody_of_that_name/x: "):
        absolute("~nobody_of_that_name/x", "X")


def test_a_working_directory_that_was_removed_hides_no_error(folder: Path) -> None:
    Path("gone").mkdir()
    (folder / "stages.py").write_text(
        "import os\nfrom crucible_core import stage\n"
        "@stage\ndef read(ctx):\n    os.chdir('gone')\n    os.rmdir('../gone')\n    open('data.csv')\n"
    )
    with pytest.raises(StageFailedError, match="FileNotFoundError"):
        run_experiment(load_experiment(folder / "read.yaml"))
    os.chdir("/")


def test_a_run_that_writes_nothing_searches_for_no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.model_validate({"id": "a", "pipeline": [{"name": "validate"}]})
    looked: list[str] = []
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: looked.append(str(path)) or exists(path))
    plan = plan_experiment(experiment, builtin_registry())
    run_experiment(plan)
    assert not [path for path in looked if path.endswith(MARKERS)]
    assert plan.output_root == Path.cwd() / "reports"
    assert [path for path in looked if path.endswith(MARKERS)]
