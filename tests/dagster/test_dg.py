"""The real `dg`, on a project that it scaffolds an experiment into. Each command takes seconds: each is run once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import commands
import pytest
from children import clean_environment

import crucible_dagster

COMMAND = Path(sys.executable).with_name("dg")
DEFS = Path("src/my_project/defs")
GUIDE = Path(__file__).parent.parent.parent / "docs" / "add-to-a-project.md"

# What `create-dagster project my-project` writes, but for what installs it.
PROJECT = {
    "pyproject.toml": '[tool.dg]\ndirectory_type = "project"\n\n[tool.dg.project]\nroot_module = "my_project"\n',
    "src/my_project/__init__.py": "",
    "src/my_project/defs/__init__.py": "",
    "src/my_project/definitions.py": (
        "from pathlib import Path\n\nfrom dagster import definitions, load_from_defs_folder\n\n\n"
        "@definitions\ndef defs():\n    return load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    ),
}


def dg(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = project / ".home"
    home.mkdir(exist_ok=True)
    found = [str(project / "src"), str(Path(crucible_dagster.__file__).parent.parent)]
    environment = {
        **clean_environment(),
        **{"HOME": str(home), "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1", "NO_COLOR": "1"},
        **{"PYTHONPATH": os.pathsep.join(found), "COLUMNS": "200"},
    }
    return commands.python(str(COMMAND), *arguments, cwd=project, env=environment)


def copied(project: Path, name: str, old: str, new: str) -> Path:
    """A copy of the project, with a mistake in its defs.yaml."""
    copy = project.with_name(name)
    shutil.copytree(project, copy)
    file = copy / DEFS / "night" / "defs.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return copy


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, subprocess.CompletedProcess[str]]:
    """What each command said."""
    project = tmp_path_factory.mktemp("dg") / "project"
    for name, text in PROJECT.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    scaffolded = dg(project, "scaffold", "defs", "crucible_dagster.ExperimentComponent", "night", "--id", "night-1")
    assert scaffolded.returncode == 0, scaffolded.stdout + scaffolded.stderr
    misspelt = copied(project, "misspelt", "options:", "optoins:")
    mistaken = copied(project, "mistaken", "tosses: 1000", "toses: 1000")
    asked = {
        "components": (project, "list", "components", "--json"),
        "check defs": (project, "check", "defs"),
        "list defs": (project, "list", "defs", "--json"),
        "launch": (project, "launch", "--job", "night_1"),
        "check yaml, misspelt": (misspelt, "check", "yaml"),
        "check defs, mistaken": (mistaken, "check", "defs"),
    }
    return {"scaffold": scaffolded, **{name: dg(*arguments) for name, arguments in asked.items()}}


def test_dg_lists_the_component(said: Mapping[str, subprocess.CompletedProcess[str]]) -> None:
    listed = {one["key"]: one["summary"] for one in json.loads(said["components"].stdout)["items"]}
    assert listed["crucible_dagster.ExperimentComponent"].startswith("Experiments: each a job")


def test_dg_finds_nothing_wrong_with_what_it_scaffolded(said: Mapping[str, subprocess.CompletedProcess[str]]) -> None:
    done = said["check defs"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All component YAML validated successfully." in done.stdout
    assert "All definitions loaded successfully." in done.stdout


def test_dg_lists_the_job_and_the_asset(said: Mapping[str, subprocess.CompletedProcess[str]]) -> None:
    listed = json.loads(said["list defs"].stdout)
    assert [job["name"] for job in listed["jobs"]] == ["night_1"]
    assert [asset["asset_key"] for asset in listed["assets"]] == ["crucible/night_1", "crucible/night_1/decisions"]
    assert listed["jobs"][0]["source"] == f"{DEFS}/night/defs.yaml:3"  # the component
    assert listed["assets"][0]["source"] == f"{DEFS}/night/defs.yaml:5"  # the experiment in it
    assert listed["resources"] == []


def test_dg_launches_the_experiment(said: Mapping[str, subprocess.CompletedProcess[str]]) -> None:
    done = said["launch"]
    assert done.returncode == 0, done.stderr
    assert "RUN_SUCCESS" in done.stderr
    assert "heads = 0.473" in done.stderr


def test_dg_shows_the_line_of_a_misspelt_key(said: Mapping[str, subprocess.CompletedProcess[str]]) -> None:
    done = said["check yaml, misspelt"]
    assert done.returncode == 1
    found = re.findall(r"defs\.yaml:(\d+) - (\S+) (\S+) (.*)", done.stdout)
    name, said_of_it = "crucible_dagster.ExperimentComponent", "Additional properties are not allowed"
    assert found == [
        (line, name, f"attributes.pipeline.{n}.optoins", f"{said_of_it} ('optoins' was unexpected)")
        for n, line in enumerate(["14", "21"])
    ]
    assert f"defs.yaml:14 - {name} attributes.pipeline.0.optoins {found[0][3]}" in GUIDE.read_text()


def test_dg_shows_the_line_of_an_option_that_is_wrong(said: Mapping[str, subprocess.CompletedProcess[str]]) -> None:
    done = said["check defs, mistaken"]
    assert done.returncode == 1
    (line,) = re.findall(r"defs/night/(defs\.yaml:15:9: .*)", done.stdout)
    assert (
        line
        == "defs.yaml:15:9: stage 'toss' has no option 'toses'; did you mean 'tosses'?; its options: bias, seed, tosses"
    )
    assert line in GUIDE.read_text()
