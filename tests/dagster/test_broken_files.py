"""A file with a mistake beside good ones: they load, and it says what is wrong where people look."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterInvalidConfigError, Definitions
from dagster._utils.error import serializable_error_info_from_exc_info
from stages_for_tests import experiment_of, registry

from crucible_core import InvalidExperimentError
from crucible_dagster import build_definitions, job_for
from crucible_dagster.compile.op_config import check_at_launch

GOOD = "id: good\npipeline: [{name: report}]\n"
FILES = {
    "good": GOOD,
    "zone": "id: zone\npipeline: [{name: report}]\nschedule: {cron: '@daily', timezone: Mars/Olympus}\n",
    "no yaml": "id: other\npipeline: [\n",
    "stage": "id: stage\npipeline: [{name: reprot}]\n",
    "times": "id: times\npipeline: [{name: report}]\nschedule: {cron: '61 * * * *'}\n",
    "later": GOOD,
    "circle_a": "id: circle-a\npipeline: [{name: report}]\ndeps: [crucible/circle_b]\n",
    "circle_b": "id: circle-b\npipeline: [{name: report}]\ndeps: [crucible/circle_a]\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.fault("a code location is broken")
def test_the_good_ones_load_and_each_broken_one_is_a_job_that_fails_with_its_mistake(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="dagster.crucible"):
        made = build_definitions(folder)
    Definitions.validate_loadable(made)
    expected = {
        "broken_zone": f"{folder}/zone.yaml:3:28: schedule.timezone: 'Mars/Olympus' is not an IANA time zone",
        "broken_no_yaml": f"{folder}/no yaml.yaml:3:1: this file is not valid YAML",
        "broken_stage": f"{folder}/stage.yaml:2:13: stage 'reprot': unknown stage 'reprot'; did you mean 'report'?",
        "broken_times": f"{folder}/times.yaml:3:12: schedule.cron: '61 * * * *' is not a cron schedule",
    }
    jobs = {job.name: job for job in made.resolve_all_job_defs() if not job.name.startswith("__")}
    broken = {name: job for name, job in jobs.items() if name.startswith("broken_")}
    assert AssetKey(["crucible", "good"]) in made.resolve_all_asset_keys()
    said = {name: str(job.description) for name, job in broken.items()}
    for name in expected:
        assert expected[name] in said[name]
        assert expected[name] in caplog.text
        ran = broken[name].execute_in_process(raise_on_error=False)
        failed = next(event for event in ran.all_events if event.is_step_failure).step_failure_data
        assert failed.error.message.startswith(expected[name])
        assert failed.error.stack == []
    assert len(jobs) == len(FILES)  # none is lost


def test_strict_refuses_with_every_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidExperimentError) as strict:
        build_definitions(folder, strict=True)
    assert len(str(strict.value).splitlines()) == 6
    monkeypatch.setenv("DAGSTER_IS_DEFS_VALIDATION_CLI", "1")  # as `dg check defs` sets it
    with pytest.raises(InvalidExperimentError) as validated:
        build_definitions(folder)
    assert str(validated.value) == str(strict.value)


def test_two_files_of_one_name_are_two_jobs(tmp_path: Path) -> None:
    for name in ("one/e.yaml", "two/e.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("id: [\n")
    made = build_definitions(tmp_path)
    assert {job.name for job in made.jobs or ()} == {"broken_e", "broken_e_2"}


# --- what is shown of an error ----------------------------------------------------------------------------------------


def test_a_failed_stage_shows_the_frames_of_its_own_code_alone() -> None:
    job = job_for(experiment_of("fail"), registry())
    ran = job.execute_in_process(raise_on_error=False)
    shown = next(event for event in ran.all_events if event.is_step_failure).step_failure_data
    assert "stage 'fail'" in shown.error.message
    assert "the loss is NaN" in shown.error.message
    assert shown.error.stack == []
    assert "Broken: the loss is NaN" in shown.error.cause.message
    assert len(shown.error.cause.stack) == 1
    assert "stages_for_tests.py" in shown.error.cause.stack[0]
    assert shown.user_failure_data.metadata["stage"].value == "fail"


def test_an_option_that_is_refused_at_launch_is_one_sentence() -> None:
    stage = registry()["measure"]
    try:
        check_at_launch("measure", stage, [{}])({"value": "far"})
    except DagsterInvalidConfigError:
        shown = serializable_error_info_from_exc_info(sys.exc_info())  # type: ignore[arg-type]
    assert shown.message.startswith("stage 'measure', option value: should be a valid number")
    assert (shown.stack, shown.cause, shown.context) == ([], None, None)
