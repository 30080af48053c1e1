"""`crucible runs`, `show` and `compare`, as people and machines use them."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from dagster import DagsterEventType, DagsterInstance
from postgres import dagster_home
from pyarrow import parquet
from ruamel.yaml import YAML
from stages_for_tests import experiment_of, registry

from crucible_bench import adjust_p_values
from crucible_bench.comparison import VERSION
from crucible_core import Context, CrucibleError, StageFailedError, Trace, load_experiment
from crucible_core.cli import main
from crucible_core.cli.extensions import LazyCommand
from crucible_core.report import TRACE_FORMATS
from crucible_dagster import History, execute_experiment
from crucible_dagster.cli import commands

HOSTILE = "\x1b[31mred [bold]not bold[/bold] \x07"


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """The instance that the command line finds."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dagster_home(home, "sqlite"), DagsterInstance.get() as opened:
        yield opened


def crucible(*arguments: str) -> Result:
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


def printed(*arguments: str) -> Any:
    done = crucible(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def run(instance: DagsterInstance, *pipeline: str | dict[str, Any], **fields: Any) -> Context:
    try:
        return execute_experiment(experiment_of(*pipeline, **fields), registry=registry(), instance=instance)
    except StageFailedError as error:
        return error.context


MEASURE = {"name": "measure", "options": {"value": 0.25}}


# --- the group ----------------------------------------------------------------------------------------------------


def test_the_commands_are_listed_with_the_sentence_that_their_own_help_begins_with() -> None:
    lazy = {name: one for name, one in vars(commands).items() if isinstance(one, LazyCommand)}
    # And `export`, which is that of the adapters.
    assert {entry.name for entry in entry_points(group="crucible.commands")} == lazy.keys() | {"export"}
    listed = " ".join(crucible("--help").stdout.split())
    for name, command in lazy.items():
        sentence = str(command.help)
        module, _, attribute = command.target.partition(":")
        real: click.Command = getattr(importlib.import_module(module), attribute)
        assert real.get_short_help_str(200) == sentence.rstrip(".") + "." * sentence.endswith(".")
        assert f"{name} {sentence[:40]}" in listed
        assert sentence in " ".join(crucible(name, "--help").stdout.split())


def test_without_dagster_the_commands_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dagster", None)
    for arguments in (["runs"], ["show", "abcd"], ["compare", "abcd", "efgh"]):
        done = crucible(*arguments)
        assert done.exit_code == 2
        assert f"error: crucible {arguments[0]} needs the extra 'dagster': pip install" in done.stderr


# --- runs ---------------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_what_came_out(instance: DagsterInstance) -> None:
    assert crucible("runs").stdout == "no runs\n"
    good, bad = run(instance, MEASURE), run(instance, "fail", id="another")
    lines = crucible("runs").stdout.splitlines()
    assert lines[0].split() == ["run", "experiment", "status", "started", "time", "launched", "result"]
    assert lines[1].split()[:3] == [bad.run_id[:8], "another", "failed"]
    assert lines[2].split()[:3] == [good.run_id[:8], "tried", "succeeded"]
    assert "python by " in lines[2]
    assert lines[2].rstrip().endswith("accuracy = 0.25.")
    assert good.run_id[:8] not in crucible("runs", "another").stdout
    assert bad.run_id[:8] not in crucible("runs", "--status", "succeeded").stdout


def test_a_full_page_says_how_to_go_on(instance: DagsterInstance) -> None:
    first, second = run(instance, "nothing"), run(instance, "nothing")
    page = crucible("runs", "--limit", "1").stdout
    assert f"older ones: --before {second.run_id[:8]}" in page
    older = crucible("runs", "--limit", "1", "--before", second.run_id[:8]).stdout
    assert first.run_id[:8] in older
    assert second.run_id[:8] not in older.splitlines()[1]
    assert crucible("runs", "--before", first.run_id[:8]).stdout == f"no runs before {first.run_id[:8]}\n"


def test_runs_as_json(instance: DagsterInstance) -> None:
    assert printed("runs") == []
    context = run(instance, MEASURE)
    (one,) = printed("runs", "tried")
    assert (one["run_id"], one["experiment"], one["status"]) == (context.run_id, "tried", "succeeded")
    assert one["metrics"] == {"accuracy": 0.25}
    assert one["launched"]["how"] == "python"


def test_what_there_is_not_is_said_with_what_there_is(instance: DagsterInstance) -> None:
    run(instance, "nothing", id="digits")
    done = crucible("runs", "digts")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no run of an experiment 'digts'; did you mean 'digits'?; experiments with runs: digits" in done.stderr
    assert crucible("show", "99999999").exit_code == 2
    assert crucible("runs", "--status", "good").exit_code == 2


LOOKING = [
    ["runs"],
    ["show", "abcd"],
    ["compare", "abcd", "bcde"],
    ["resume", "abcd"],
    ["replay", "abcd"],
    ["why", "abcd", "train"],
    ["ticks", "nightly"],
    ["store", "gc", "--delete"],
    ["store", "verify"],
    ["store", "pin", "abcd"],
]


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_looking_makes_no_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    done = crucible(*command)
    assert done.exit_code == 2
    assert f"DAGSTER_HOME is not set, and there is no {tmp_path}/.crucible/dagster, which `crucible run" in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    done = crucible(*command)
    assert (done.exit_code, f"DAGSTER_HOME={tmp_path}/home is an empty folder" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.rglob("*")] == ["home"]


def test_the_embedded_instance_is_found(tmp_path: Path) -> None:
    context = execute_experiment(experiment_of("nothing"), registry=registry())
    assert [one["run_id"] for one in printed("runs")] == [context.run_id]


# --- show ---------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_whole(instance: DagsterInstance) -> None:
    context = run(instance, MEASURE, "choose", "odd_values", {"name": "bounds", "options": {"count": 3}})
    shown = crucible("show", context.run_id[:6])
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0] == f"tried run {context.run_id}"
    for part in ("What ran", "Metrics", "Artifacts", "Decisions", "Options", "Code"):
        assert part in lines
    assert "accuracy 0.25" in lines
    assert "file a/b.bin" in lines
    assert "measure value 0.25" in lines
    assert "bounds count 3" in lines
    assert any(line.startswith("launched python by ") for line in lines)
    assert any(line.startswith("packages ") and "dagster 1." in line for line in lines)
    assert any(line.startswith("measure succeeded ") for line in lines)
    assert any(line.startswith("measure stages_for_tests:measure ") for line in lines)
    assert any("use the small model" in line for line in lines)


def test_a_failed_run_is_shown_with_its_traceback(instance: DagsterInstance) -> None:
    context = run(instance, MEASURE, "fail")
    shown = crucible("show", context.run_id)
    assert shown.exit_code == 0
    assert "Failed: stages_for_tests.Broken: the loss is NaN" in shown.stdout
    assert "Failure (stage fail)" in shown.stdout
    assert "raise Broken(message)" in shown.stdout
    assert printed("show", context.run_id)["failure"]["stage"] == "fail"


def test_a_comparison_is_shown_as_in_a_report(instance: DagsterInstance) -> None:
    groups = {"name": "groups", "options": {"control": [1.0, 2.0, 3.0, 4.0], "treatment": [2.0, 3.0, 5.0, 6.0]}}
    context = run(instance, groups, "bench")
    shown = crucible("show", context.run_id).stdout
    assert "Comparison" in shown
    assert "not significant" in shown
    assert "bench.tests" not in shown


def test_a_comparison_of_a_newer_version_is_said_to_be_one(instance: DagsterInstance) -> None:
    context = run(instance, "newer_comparison")
    versions = f"({VERSION + 1}; this version of crucible reads up to {VERSION})"
    said = f"This is a comparison of a newer version {versions}. Upgrade"
    shown = " ".join(crucible("show", context.run_id).stdout.split())
    assert f"bench: {said} crucible-dagster to see it." in shown  # the headline
    assert f"Comparison: bench {said}" in shown
    assert "bench.p 0.25" in shown
    assert printed("runs")[0]["headline"].startswith(f"bench: {said}")


def test_what_a_decision_depends_on_is_shown_stored_and_found(instance: DagsterInstance) -> None:
    context = run(instance, "choose_in_turn")
    adam, rate = context.trace.decisions
    first, second = printed("show", context.run_id)["decisions"]
    assert (first["id"], second["depends_on"], second["metadata"]) == (adam.id, [adam.id], {"tried": [0.1, 0.01]})
    words = crucible("show", context.run_id).stdout.split()
    assert " ".join(["rate", "0.1", "as", "usual", "adam", "tried:"]) in " ".join(words)
    observed = [
        entry.asset_observation.metadata
        for entry in instance.all_logs(context.run_id, of_type=DagsterEventType.ASSET_OBSERVATION)
        if entry.asset_observation is not None
    ]
    assert [one["id"].value for one in observed] == [adam.id, rate.id]
    assert (observed[1]["depends_on"].value, observed[1]["details"].value) == (adam.id, {"tried": [0.1, 0.01]})
    for text, found in ((rate.id, True), ("0.01", True), ("0123456789ab", False)):
        assert bool(json.loads(crucible("runs", "--decision", text, "--json").stdout)) is found


def test_a_run_as_json_holds_everything(instance: DagsterInstance) -> None:
    context = run(instance, MEASURE, "choose", "odd_values")
    data = printed("show", context.run_id)
    assert data["summary"]["run_id"] == context.run_id
    assert data["metrics"]["nan"] == "NaN"
    assert data["record"]["experiment"] == context.experiment.to_dict()
    assert data["decisions"][0]["decision"] == "use the small model"
    assert data["stages"][0]["outcome"] == "succeeded"
    assert (data["failure"], data["notes"]) == (None, [])


def test_hostile_text_does_not_speak_to_the_terminal(instance: DagsterInstance) -> None:
    stages = [
        {"name": "choose", "options": {"decision": HOSTILE}},
        {"name": "measure", "options": {"name": HOSTILE}},
        {"name": "fail", "options": {"message": HOSTILE}},
    ]
    first, second = run(instance, *stages), run(instance, "measure")
    for arguments in (["show", first.run_id], ["compare", first.run_id, second.run_id], ["runs"]):
        done = crucible(*arguments)
        assert done.exit_code == 0
        assert "\x1b" not in done.stdout
        assert "\x07" not in done.stdout
    assert "\\x1b[31mred [bold]not bold[/bold] \\x07" in crucible("show", first.run_id).stdout


def test_the_trace_of_a_run_is_printed_in_each_format(instance: DagsterInstance) -> None:
    hostile = {"name": "choose", "options": {"decision": f"{HOSTILE}\r\n, \u202e"}}
    context = run(instance, MEASURE, hostile)
    for trace_format in TRACE_FORMATS:
        done = crucible("show", context.run_id[:6], "--trace", trace_format)
        assert (done.exit_code, done.stderr) == (0, "")
        assert "measure" in done.stdout
        assert "\x1b" not in done.stdout
    assert Trace.from_json(crucible("show", context.run_id, "--trace", "json").stdout) == context.trace
    assert crucible("show", context.run_id, "--trace", "xml").exit_code == 2


def test_the_experiment_of_a_run_can_be_run_again(instance: DagsterInstance) -> None:
    texts = [
        "1e-3",
        "on",
        "12:30",
        "null",
        "- x",
        "a: b # c",
        "\x1b",
        "line\nbreak",
        "",
        " ",
        "é",
        "0x1f",
        "2026-01-01",
        *(
            "y",
            "N",
            "nUlL",
            "=",
            "<<",
            "~",
            ".",
            "...",
            "---",
            "a:b",
            "0777",
            "x " * 90,
            "\u2028",
            "\t",
            "\ufeff",
            "\x85",
        ),
    ]
    values = {"texts": texts, **{text: text for text in texts}, "number": 1e-7, "whole": 10**15, "none": None}
    context = run(instance, {"name": "assign", "module": "stages_for_tests:assign", "options": {"values": values}})
    done = crucible("show", context.run_id[:8], "--ir")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"# tried, as run by {context.run_id}\n")
    Path("again.yaml").write_text(done.stdout)
    again = load_experiment("again.yaml")
    assert again == context.experiment
    assert execute_experiment(again, instance=instance).assigns["texts"] == texts
    assert YAML(typ="safe").load(done.stdout)["pipeline"][0]["options"] == {"values": values}


def test_the_experiment_of_a_run_that_never_began_is_not_known(instance: DagsterInstance) -> None:
    from dagster import DagsterRun

    made = instance.add_run(DagsterRun(job_name="tried", tags={"crucible/experiment": "tried"}))
    done = crucible("show", made.run_id, "--ir")
    assert done.exit_code == 2
    assert "has no record: its first stage never started" in done.stderr
    assert "note: " in crucible("show", made.run_id).stdout


# --- compare ------------------------------------------------------------------------------------------------------


def test_two_runs_are_compared_side_by_side(instance: DagsterInstance) -> None:
    first, second = run(instance, MEASURE), run(instance, {"name": "measure", "options": {"value": 0.75}})
    done = crucible("compare", first.run_id[:8], second.run_id[:8])
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"run {first.run_id[:8]} {second.run_id[:8]}" in lines
    assert "accuracy 0.25 0.75 0.5" in lines
    assert "measure.value 0.25 0.75" in lines
    assert "the same: experiment, code, surroundings, packages" in lines
    data = printed("compare", first.run_id, second.run_id, "--values")
    assert data["metrics"] == [{"name": "accuracy", "a": 0.25, "b": 0.75, "difference": 0.5}]
    assert data["options"] == [{"name": "measure.value", "a": 0.25, "b": 0.75}]
    assert data["values"] == ["metrics['accuracy']"]
    assert data["trace"] == []


def test_more_than_two_runs_are_compared_in_one_table(instance: DagsterInstance) -> None:
    runs = [run(instance, {"name": "measure", "options": {"value": value}}) for value in (0.25, 0.75, 0.25)]
    short = [one.run_id[:8] for one in runs]
    done = crucible("compare", *short)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"run {' '.join(short)}" in lines
    assert f"metric {' '.join(short)}" in lines
    assert "accuracy 0.25 0.75 0.25" in lines
    assert "measure.value 0.25 0.75 0.25" in lines
    data = printed("compare", *short)
    assert [(one["a"]["run_id"], one["b"]["run_id"]) for one in data] == [
        (runs[0].run_id, other.run_id) for other in runs[1:]
    ]
    alone = crucible("compare", short[0])
    assert (alone.exit_code, f"name another run to compare {short[0]} with" in alone.stderr) == (2, True)


def test_the_groups_of_all_runs_are_one_family(instance: DagsterInstance) -> None:
    def benched(shift: float) -> str:
        options = {"control": [n + shift for n in range(8)], "treatment": [3.0 + n * shift for n in range(8)]}
        return run(instance, {"name": "groups", "options": options}, "bench").run_id

    runs = [benched(shift) for shift in (0.5, 1.0, 2.5)]
    changes = [change for one in printed("compare", *runs) for change in one["groups"]]
    assert len(changes) == 4
    expected = adjust_p_values([change["result"]["p_value"] for change in changes], "holm")
    assert [change["p_adjusted"] for change in changes] == pytest.approx(list(expected))


def test_runs_show_their_seed_and_the_options_that_differ(instance: DagsterInstance) -> None:
    for seed, value in ((1, 0.25), (2, 0.75)):
        run(instance, {"name": "measure", "options": {"value": value}}, seed=seed)
    run(instance, "nothing", id="other")
    listed = crucible("runs").stdout.splitlines()
    assert "seed and changed options" in listed[0]
    assert ["seed" in line for line in listed[1:4]] == [False, True, True]
    assert "seed=2, measure.value=0.75" in listed[2]
    assert "seed=1, measure.value=0.25" in listed[3]
    assert [(one.get("seed"), one.get("changed_options")) for one in printed("runs", "tried")] == [
        (2, {"measure.value": 0.75}),
        (1, {"measure.value": 0.25}),
    ]


def test_a_direct_run_is_said_not_to_be_kept(instance: DagsterInstance) -> None:
    run(instance, "nothing")
    done = crucible("show", "ffff")
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "Direct runs are not kept: `crucible run FILE --dagster` keeps the run" in said


def test_a_comparison_says_where_two_runs_went_different_ways(instance: DagsterInstance) -> None:
    first = run(instance, "measure", "choose")
    second = run(instance, "measure", {"name": "choose", "options": {"decision": "use none"}}, "nothing")
    shown = crucible("compare", first.run_id, second.run_id, "--values").stdout
    lines = shown[shown.index("Trace") :].splitlines()
    assert lines[2].startswith("- choose, decision 1: use the small model, because reason 0; instead of use the large")
    assert lines[3].startswith("+ choose, decision 1: use none, because reason 0")
    assert lines[4].rstrip() == "+ nothing: succeeded"


# --- as tables --------------------------------------------------------------------------------------------------------


def test_runs_are_a_table_of_all_numbers(instance: DagsterInstance, tmp_path: Path) -> None:
    first, second = run(instance, MEASURE), run(instance, {"name": "measure", "options": {"value": 1 / 3}})
    rows = list(csv.DictReader(io.StringIO(crucible("runs", "tried", "--csv").stdout)))
    assert [row["run_id"] for row in rows] == [second.run_id, first.run_id]
    assert [float(row["accuracy"]) for row in rows] == [1 / 3, 0.25]
    assert {row["experiment"] for row in rows} == {"tried"}
    assert len(crucible("runs", "--csv", "--limit", "1").stdout.splitlines()) == 2
    file = tmp_path / "runs.parquet"
    assert crucible("runs", "--parquet", str(file)).stdout == f"{file}: 2 rows\n"
    table = parquet.read_table(file)
    assert table.column("accuracy").to_pylist() == [1 / 3, 0.25]
    assert str(table.schema.field("started").type) == "timestamp[us, tz=UTC]"
    refused = crucible("runs", "--parquet", str(tmp_path / "nowhere" / "runs.parquet"))
    assert refused.exit_code == 2
    assert "No such file or directory" in refused.stderr


def test_history_makes_frames_of_what_is_installed(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(instance, MEASURE)
    history = History(instance)
    frame = history.frame("tried")
    assert isinstance(frame, pd.DataFrame)
    assert frame["accuracy"].tolist() == [0.25]
    assert history.trials_frame(made.run_id).empty
    with pytest.raises(CrucibleError, match="'polars' is not installed"):
        history.frame("tried", library="polars")
    with pytest.raises(CrucibleError, match="'panda' is not a library of data frames; did you mean 'pandas'"):
        history.frame("tried", library="panda")  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert history.frame("tried") == history.metrics("tried")


def test_a_notebook_shows_the_newest_runs_and_every_text_is_escaped(instance: DagsterInstance) -> None:
    assert History(instance)._repr_html_() == "<p>no runs</p>"
    made = run(instance, {"name": "measure", "options": {"value": 0.25}}, description="<b>")
    shown = History(instance)._repr_html_()
    assert shown.startswith('<div class="scroll"><table')
    assert made.run_id[:8] in shown
    assert "<script" not in shown
