"""The command line, run as people and machines run it: as a process."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from children import PATH
from click.testing import CliRunner, Result
from stages_for_tests import HERE, STAGES

from crucible_core import Experiment, builtin_registry, load_experiment
from crucible_core.cli import commands, main
from crucible_core.cli.extensions import LazyCommand

CRUCIBLE = str(Path(sys.executable).with_name("crucible"))


def crucible(*arguments: str | Path, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CRUCIBLE, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": PATH, "COLUMNS": "100", **environment},
    )


def crucible_here(*arguments: str) -> Result:
    """The same command in this process, which is quicker; for tables of inputs."""
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


def write(text: str, name: str = "experiment.yaml") -> str:
    Path(name).write_text(text)
    return name


def experiment(*stages: str, name: str = "experiment.yaml", more: str = "") -> str:
    """A file whose stages are those of `stages_for_tests`; an entry may go on with `: options`."""
    lines = []
    for stage in stages:
        kind, _, options = stage.partition(": ")
        attribute = STAGES[kind].__qualname__ if kind in STAGES else None
        module = f", module: 'stages_for_tests:{attribute}'" if attribute else ""
        lines.append(f"  - {{name: {kind}{module}, options: {options or '{}'}}}")
    return write("id: tried\npipeline:\n" + "\n".join(lines) + f"\n{more}", name)


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_shows_each_stage_and_the_result_before_its_details() -> None:
    done = crucible("run", experiment("measure", "choose", "add: {by: 2}"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"tried run [0-9a-f-]{36}", lines[0])
    for stage in ("measure", "choose", "add"):
        assert f"  … {stage}" in lines
        assert any(re.match(rf"  ✓ {stage}  (< 1 ms|\d+ ms)", line) for line in lines)
    assert "use the small model" in done.stdout
    after = lines[lines.index("") :]  # the stages are shown as they run; then comes the result
    assert after[1] == "accuracy = 0.5, total = 2."
    assert [line.split() for line in after[3:7]] == [
        ["Metrics"],
        ["metric", "value"],
        ["accuracy", "0.5"],
        ["total", "2"],
    ]
    assert "What ran" not in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_a_run_writes_its_reports_and_says_where() -> None:
    done = crucible("run", experiment("measure", "report"), COLUMNS="300")
    assert done.returncode == 0
    files = sorted(Path("reports/tried").glob("*/*"))
    assert [file.name for file in files] == ["report.html", "report.md"]
    for file in files:
        assert str(file.absolute()) in done.stdout


def test_a_skipped_stage_is_shown_as_skipped() -> None:
    file = write("id: a\npipeline:\n  - {name: validate}\n  - {name: report, enabled: false}\n")
    assert "– report  skipped (enabled: false)" in crucible_here("run", file).stdout


def test_a_retried_stage_is_shown_with_its_reason() -> None:
    file = write(
        "id: a\npipeline:\n  - name: s\n    module: stages_for_tests:fail_until\n"
        "    options: {counter: n, succeed_at: 2}\n"
        "    retry: {max_retries: 1, delay: 0.01}\n"
    )
    done = crucible_here("run", file)
    assert done.exit_code == 0
    assert "attempt 1 failed: stages_for_tests.Broken: attempt 1; again in 0.0 s" in done.stdout
    assert "2 attempts" in done.stdout


@pytest.mark.slow
def test_json_is_all_there_is_on_standard_output() -> None:
    outputs = "outputs: [{name: r, sink: stdout}]\n"
    done = crucible("run", "--json", experiment("say", "measure", "odd_values", "choose", "report", more=outputs))
    assert done.returncode == 0
    data = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["status"] == "succeeded"
    assert data["metrics"]["accuracy"] == 0.5
    assert (data["metrics"]["nan"], data["metrics"]["minus"]) == ("NaN", "-Infinity")
    assert data["stages"]["measure"] == "succeeded"
    assert data["decisions"][0]["decision"] == "use the small model"
    assert data["experiment"]["id"] == "tried"
    assert "hello from a stage" in done.stderr
    assert "# tried" in done.stderr
    assert "✓ measure" in done.stderr


STAGE_BESIDE = """\
from crucible_core import Context, stage
{above}
@stage
def load(ctx: Context) -> Context:
    {inside}
    return ctx.put_metric("rows", 3)
"""


@pytest.mark.slow
def test_what_a_module_prints_when_it_is_imported_is_kept_out_of_the_json() -> None:
    Path("noisy.py").write_text(STAGE_BESIDE.format(above="print('imported!')", inside="pass"))
    file = write("id: a\npipeline: [{name: s, module: 'noisy:load'}]\n")
    assert json.loads(crucible("run", "--json", file).stdout)["metrics"] == {"rows": 3}
    assert json.loads(crucible("validate", "--json", file).stdout)[file]["valid"] is True
    assert json.loads(crucible("stages", "--json", "noisy:load").stdout)["required"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "inside",
    ["import subprocess; subprocess.run(['echo', 'from a program'])", "import os; os.write(1, b'from a library\\n')"],
    ids=["a program", "a library in C"],
)
def test_what_programs_and_libraries_print_is_kept_out_of_the_json(inside: str) -> None:
    Path("noisy.py").write_text(STAGE_BESIDE.format(above="", inside=inside))
    done = crucible("run", "--json", write("id: a\npipeline: [{name: s, module: 'noisy:load'}]\n"))
    assert json.loads(done.stdout)["metrics"] == {"rows": 3}
    assert "from a" in done.stderr


@pytest.mark.slow
def test_what_stages_log_does_not_get_into_the_json() -> None:
    above = "import logging, warnings\nlogging.basicConfig(level=0)"
    inside = "logging.info('info'); warnings.warn('careful'); logging.getLogger('crucible').error('bad')"
    Path("noisy.py").write_text(STAGE_BESIDE.format(above=above, inside=inside))
    done = crucible("run", "--json", write("id: a\npipeline: [{name: s, module: 'noisy:load'}]\n"))
    assert json.loads(done.stdout)["metrics"] == {"rows": 3}


@pytest.mark.slow
def test_texts_with_the_marks_of_the_terminal_library_are_shown_as_they_are() -> None:
    said = r"[red]model.py:100: see [/] [bold]x[/bold] :smile: a\\"
    done = crucible("run", experiment(f"choose: {{decision: '{said}'}}", f"measure: {{name: '{said}'}}"))
    assert done.returncode == 0
    assert done.stdout.count(said) >= 2


@pytest.mark.slow
def test_a_failure_with_the_marks_of_the_terminal_library_is_shown_as_it_is() -> None:
    said = "[red]model.py:100: see [/] [bold]x"
    done = crucible("run", experiment(f"fail: {{message: '{said}'}}"))
    assert done.returncode == 1
    assert f"Broken: {said}" in done.stderr


@pytest.mark.slow
def test_no_text_sends_commands_to_the_terminal() -> None:
    clear = r'"\e[2J\e]0;owned\a"'
    done = crucible(
        "run",
        experiment(f"choose: {{decision: {clear}}}", f"measure: {{name: {clear}}}", f"fail: {{message: {clear}}}"),
    )
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x07" not in done.stdout + done.stderr


@pytest.mark.slow
def test_no_log_line_report_or_docstring_sends_commands_to_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\x08\x85\u202e"
    Path("loud.py").write_text(
        "import logging\nfrom crucible_core import Context, stage\n@stage\ndef loud(ctx: Context) -> Context:\n"
        f"    {evil!r}\n    logging.getLogger('loud').warning({evil!r})\n"
        f"    return ctx.put_metric({evil!r}, {evil!r})\n"
    )
    formats = ["markdown", "html", "json", "csv", "latex"]
    data = {
        "id": "loud",
        "description": evil,
        "pipeline": [{"name": "loud", "module": "loud:loud"}, {"name": "report"}],
        "outputs": [{"name": "r", "formats": formats, "sink": "stdout"}],
    }
    Path("loud.json").write_text(json.dumps(data))
    for arguments in (["run", "loud.json"], ["run", "loud.json", "--json"], ["stages", "loud:loud"]):
        # As on a terminal: click leaves escapes out of a pipe.
        code, shown = on_a_terminal(*arguments)
        assert code == 0, shown
        assert not re.search(r"[\x00-\x07\x0b\x0c\x0e-\x1a\x7f-\x9f\u202e]|\x1b\]|\x1b\[2J", shown), ascii(shown)
    assert "loud" in shown


# --- run, when it fails -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_failed_experiment_exits_with_1_says_which_stage_and_why_and_keeps_partial_results() -> None:
    done = crucible("run", experiment("measure", "fail", "add"))
    assert done.returncode == 1
    assert "✗ fail" in done.stdout
    assert "… add" not in done.stdout
    assert "error: stage 'fail' failed: stages_for_tests.Broken: the loss is NaN" in done.stderr
    assert "raise Broken(message)" in done.stderr
    assert "crucible_core/runner.py" not in done.stderr
    kept = Path(re.search(r"partial results: (.+\.json)", done.stderr).group(1))
    data = json.loads(kept.read_text())
    assert data["status"] == "failed"
    assert data["failure"]["stage"] == "fail"
    assert data["metrics"] == {"accuracy": 0.5}
    assert data["stages"] == {"measure": "succeeded", "fail": "failed"}


@pytest.mark.slow
def test_a_failed_experiment_with_json_prints_the_failure_as_json() -> None:
    done = crucible("run", "--json", experiment("measure", "fail"))
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert data["status"] == "failed"
    assert data["failure"] == {"stage": "fail", "error_type": "stages_for_tests.Broken", "message": "the loss is NaN"}
    assert data["metrics"] == {"accuracy": 0.5}
    assert "error: stage 'fail' failed" in done.stderr


@pytest.mark.parametrize("code", ["null", "0", "3", "no data"])
def test_a_stage_that_calls_sys_exit_fails_the_experiment_whatever_the_code(code: str) -> None:
    done = crucible_here("run", experiment("measure", f"leave: {{code: {code}}}"))
    assert done.exit_code == 1
    assert "error: stage 'leave' failed: SystemExit: it called sys.exit(" in done.stderr
    assert "partial results:" in done.stderr


@pytest.mark.parametrize(
    ("stage", "part"),
    [
        ("returns_none", "returned None"),
        ("returns_metrics", "returned dict"),
        ("returns_foreign", "that it did not make"),
    ],
)
def test_a_stage_that_returns_the_wrong_thing_fails_the_experiment(stage: str, part: str) -> None:
    done = crucible_here("run", experiment(stage))
    assert done.exit_code == 1
    assert part in done.stderr


@pytest.mark.slow
def test_partial_results_that_cannot_be_written_do_not_hide_the_failure() -> None:
    Path("reports").touch()
    done = crucible("run", experiment("fail"))
    assert done.returncode == 1
    assert "the loss is NaN" in done.stderr
    assert "not kept: cannot write" in done.stderr
    assert "Traceback (most recent call last):\n  File" in done.stderr  # the stage's own, once
    assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize(
    "values", ["{x: {alpha: 1, groups: 2, tests: 3}}", "{x: [1.0e+308, 1.0e+308, 1.0e+308, 1.0e+308]}"]
)
def test_no_metric_breaks_the_summary(values: str) -> None:
    Path("odd.py").write_text(
        "from typing import Any\nfrom crucible_core import Context, stage\n@stage\n"
        "def put(ctx: Context, *, values: dict[str, Any]) -> Context:\n    return ctx.merge_metrics(values)\n"
    )
    file = write(f"id: a\npipeline: [{{name: s, module: 'odd:put', options: {{values: {values}}}}}]\n")
    for arguments in (["run", file], ["run", "--json", file]):
        done = crucible_here(*arguments)
        assert (done.exit_code, done.stderr.count("Traceback")) == (0, 0), done.stderr


# --- run, when it is interrupted --------------------------------------------------------------------------------------


def started(*arguments: str, ready: str = "ready") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [CRUCIBLE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PATH},
    )
    deadline = time.monotonic() + 30
    while not Path(ready).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def interrupted(*arguments: str) -> tuple[int, str, str]:
    process = started(*arguments)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=15)
    return process.returncode, out, err


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_keeps_partial_results() -> None:
    code, out, err = interrupted("run", experiment("measure", "sleep: {seconds: 60, ready: ready}", "add"))
    assert code == 130
    assert "interrupted in stage 'sleep'" in err
    assert "Traceback" not in err
    kept = Path(re.search(r"partial results: (.+\.json)", err).group(1))
    assert json.loads(kept.read_text())["metrics"] == {"accuracy": 0.5}
    assert "… add" not in out


@pytest.mark.slow
def test_ctrl_c_with_json_still_prints_json() -> None:
    code, out, _ = interrupted("run", "--json", experiment("measure", "sleep: {seconds: 60, ready: ready}"))
    assert code == 130
    data = json.loads(out)
    assert data["status"] == "interrupted"
    assert data["metrics"] == {"accuracy": 0.5}


@pytest.mark.slow
def test_ctrl_c_while_a_retry_is_waited_for_exits_with_130_and_keeps_partial_results() -> None:
    Path("slow.py").write_text(
        STAGE_BESIDE.format(above="import pathlib", inside="pathlib.Path('ready').touch(); raise ValueError('again')")
    )
    file = write("id: a\npipeline: [{name: s, module: 'slow:load', retry: {max_retries: 3, delay: 60}}]\n")
    code, _, err = interrupted("run", file)
    assert code == 130, err
    assert "interrupted in stage 's'" in err
    assert "partial results:" in err


@pytest.mark.slow
def test_ctrl_c_while_a_module_is_imported_exits_with_130() -> None:
    above = "import pathlib, time\npathlib.Path('ready').touch()\ntime.sleep(60)"
    Path("slow.py").write_text(STAGE_BESIDE.format(above=above, inside="pass"))
    code, _, err = interrupted("run", write("id: a\npipeline: [{name: s, module: 'slow:load'}]\n"))
    assert code == 130, err
    assert "Traceback" not in err


# --- run, when the input is wrong -------------------------------------------------------------------------------------

BAD_FILES = [
    (
        "id: a\npipeline: [{name: bnech}]\n",
        "experiment.yaml:2:13: stage 'bnech': unknown stage 'bnech'; did you mean 'bench'?",
    ),
    (
        "id: a\npipeline: [{name: bench, options: {alfa: 1}}]\n",
        "experiment.yaml:2:36: stage 'bench' has no option 'alfa'",
    ),
    ("id: a\npipeline: []\n", "experiment.yaml:2:1: pipeline: the pipeline is empty"),
    ("id: a\npipeline: [\n", "experiment.yaml:3:1: this file is not valid YAML"),
    ("- a\n", "experiment.yaml:1:1: an experiment is a mapping"),
    ("id: a\npipeline: [{name: s, module: 'not_there:X'}]\n", "there is no module 'not_there'"),
    (
        "id: a\npipeline: [{name: report}]\noutputs: [{name: r, options: {path: ../../etc/x}}]\n",
        "the path '../../etc/x' leaves the output root",
    ),
]


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize(("text", "part"), BAD_FILES)
def test_a_wrong_file_exits_with_2_and_says_where_and_what(command: str, text: str, part: str) -> None:
    done = crucible_here(command, write(text))
    assert done.exit_code == 2
    assert part in done.stderr
    assert done.stdout == ""
    assert not Path("reports").exists()


@pytest.mark.slow
def test_a_wrong_file_makes_the_process_exit_with_2() -> None:
    done = crucible("run", write(BAD_FILES[0][0]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: experiment.yaml:2:13: stage 'bnech': unknown stage 'bnech'; did you mean 'bench'?; registered: bench, "
        "data_checks, load_inspect, load_lm_eval, report, validate; or name its class with `module: "
        "package.module:Class`\n"
    )


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize(
    ("path", "part"),
    [("missing.yaml", "there is no such file"), (".", "is a folder"), ("loop.yaml", "cannot be read"), ("", "folder")],
)
def test_a_path_that_cannot_be_read_exits_with_2(command: str, path: str, part: str) -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    done = crucible_here(command, path)
    assert done.exit_code == 2
    assert part in done.stderr


@pytest.mark.parametrize("code", ["0", "3"])
def test_a_module_that_exits_when_it_is_imported_is_wrong_input(code: str) -> None:
    Path("script.py").write_text(f"import sys\nsys.exit({code})\n")
    file = write("id: a\npipeline: [{name: s, module: 'script:Train'}]\n")
    for command in ("run", "validate"):
        done = crucible_here(command, file)
        assert done.exit_code == 2
        assert "script" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "a", "b"], ["rnu"], ["run", "--wrong", "a"], ["validate"]])
def test_a_wrong_command_exits_with_2(arguments: list[str]) -> None:
    done = crucible_here(*arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr


@pytest.mark.slow
def test_a_file_whose_name_is_not_unicode_is_handled() -> None:
    name = b"caf\xe9.yaml"
    Path(os.fsdecode(name)).write_text("id: a\npipeline: [{name: validate}]\n")
    for command in ([b"validate"], [b"run", b"--json"]):
        done = subprocess.run([CRUCIBLE.encode(), *command, name], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()


# --- run --set --------------------------------------------------------------------------------------------------------


def metrics_of(*arguments: str) -> dict[str, Any]:
    done = crucible_here("run", "--json", *arguments)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["metrics"]


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (["bounds.share=1e-3"], {"share": 0.001}),
        (["bounds.size=[1, 2]"], {"size": [1, 2]}),
        (["bounds.weights={a: 1}"], {"weights": {"a": 1.0}}),
        (["bounds.weights.b=2"], {"weights": {"a": 0.5, "b": 2.0}}),
        (["bounds.count=null"], {"count": None}),
        (["bounds.count="], {"count": None}),
        (["bounds.file=a=b"], {"file": "a=b"}),
        (["bounds.mode=slow", "bounds.verbose=true"], {"mode": "slow", "verbose": True}),
        (["bounds.count=1", "bounds.count=2"], {"count": 2}),
    ],
)
def test_an_option_is_replaced_and_the_others_stay(overrides: list[str], options: dict[str, Any]) -> None:
    file = experiment("bounds: {count: 7, weights: {a: 0.5}, pair: [3, 4]}")
    flags = [part for override in overrides for part in ("--set", override)]
    taken = metrics_of(file, *flags)["options"]
    assert taken == {
        "share": 0.5, "count": 7, "size": 1, "mode": "fast", "verbose": False, "pair": [3, 4.0],
        "weights": {"a": 0.5}, "file": None,
        **options,
    }  # fmt: skip


def test_the_stage_is_named_by_its_whole_name_even_with_dots() -> None:
    file = write(
        "id: a\npipeline:\n  - {name: m, module: 'stages_for_tests:measure'}\n"
        "  - {name: m.value, module: 'stages_for_tests:measure', options: {name: second}}\n"
    )
    assert metrics_of(file, "--set", "m.value.value=3", "--set", "m.value=2") == {"accuracy": 2.0, "second": 3.0}


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("measure", "is not of the form STAGE.OPTION=VALUE"),
        ("measure=1", "is not of the form STAGE.OPTION=VALUE"),
        ("measure.value", "is not of the form STAGE.OPTION=VALUE"),
        ("mesure.value=1", "no stage 'mesure'; did you mean 'measure'?; stages: measure"),
        ("measure.valu=1", "--set 'measure.valu=1': stage 'measure' has no option 'valu'; did you mean 'value'?"),
        ("measure.value=high", "valid number"),
        ("measure.value=[1", "is not valid YAML"),
        ("measure.value=yes", "boolean in YAML 1.1"),
        ("measure.value=.nan", "finite"),
        ("measure.value=99999999999999999999", "64 bits"),
        ('measure.name="\\0"', "NUL"),
        ("measure.value.deep.er=1", "value"),
        (".value=1", "no stage ''"),
    ],
)
def test_a_wrong_override_exits_with_2_and_says_what_is_wrong(override: str, part: str) -> None:
    done = crucible_here("run", experiment("measure"), "--set", override)
    assert done.exit_code == 2
    assert part in done.stderr, done.stderr


NESTED = """
from typing import Annotated, Any, Literal
from pydantic import BaseModel, Field
from crucible_core import Context, Stage

class Layer(BaseModel):
    width: int = 1
    depth: int = 1

class Adam(BaseModel):
    kind: Literal["adam"]
    rate: float = 0.1

class Sgd(BaseModel):
    kind: Literal["sgd"]
    momentum: float = 0.9

class Net(Stage):
    layer: Layer | None = None
    layers: list[Layer] = []
    sizes: dict[str, Layer] = {}
    optimizer: Annotated[Adam | Sgd, Field(discriminator="kind")] = Adam(kind="adam")
    loose: dict[str, Any] = {}
    either: int | Layer = 1

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("options", self.model_dump())
"""
NET = "id: a\npipeline: [{name: net, module: 'net:Net', options: {layer: {depth: 2}, sizes: {a: {width: 2}}}}]\n"


@pytest.mark.parametrize(
    ("override", "option", "value"),
    [
        ("net.layer.width=3", "layer", {"width": 3, "depth": 2}),
        ("net.sizes.a.depth=4", "sizes", {"a": {"width": 2, "depth": 4}}),
        ("net.sizes.b.depth=4", "sizes", {"a": {"width": 2, "depth": 1}, "b": {"width": 1, "depth": 4}}),
        ("net.optimizer.kind=sgd", "optimizer", {"kind": "sgd", "momentum": 0.9}),
        ("net.loose.any.thing=1", "loose", {"any": {"thing": 1}}),
        ("net.either.width=7", "either", {"width": 7, "depth": 1}),
    ],
)
def test_a_part_of_an_option_is_replaced_and_its_other_parts_stay(override: str, option: str, value: Any) -> None:
    write(NESTED, "net.py")
    assert metrics_of(write(NET), "--set", override)["options"][option] == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("net.layr.width=3", "stage 'net' has no option 'layr'; did you mean 'layer'?; its options: either, layer, "),
        (
            "net.layer.widht=3",
            "option 'layer' of stage 'net' has no field 'widht'; did you mean 'width'?; its fields: depth, width",
        ),
        ("net.sizes.a.w=3", "option 'sizes.a' of stage 'net' has no field 'w'; its fields: depth, width"),
        ("net.optimizer.rat=1", "option 'optimizer' of stage 'net' has no field 'rat'; did you mean 'rate'?"),
        (
            "net.layers.0.width=3",
            "option 'layers' of stage 'net' is an empty list; set it as a whole: net.layers=VALUE",
        ),
        (
            "net.layer.width.x=3",
            "option 'layer.width' of stage 'net' has no parts, its type is: whole number; "
            "set it as a whole: net.layer.width=VALUE",
        ),
    ],
)
def test_a_part_that_an_option_does_not_have_is_refused_with_the_parts_that_it_has(override: str, said: str) -> None:
    write(NESTED, "net.py")
    done = crucible_here("run", write(NET), "--set", override)
    assert done.exit_code == 2
    assert f"--set {override!r}: {said}" in done.stderr


def test_a_part_of_an_option_of_a_stage_that_does_not_exist_is_refused_like_the_stage() -> None:
    done = crucible_here("run", write("id: a\npipeline: [{name: bnech}]\n"), "--set", "bnech.a.b=1")
    assert done.exit_code == 2
    assert "did you mean 'bench'?" in done.stderr


def test_a_mistake_in_an_override_is_not_shown_at_a_line_of_the_file() -> None:
    file = write("id: a\npipeline:\n  - name: m\n    module: 'stages_for_tests:measure'\n    options: {value: 0.5}\n")
    done = crucible_here("run", file, "--set", "m.value=high")
    assert "experiment.yaml:5" not in done.stderr
    assert "high" in done.stderr


# --- validate ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_valid_files_exit_with_0() -> None:
    first, second = experiment("measure", name="a.yaml"), experiment("measure", "fail", name="b.yaml")
    done = crucible("validate", first, second)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a.yaml: valid\nb.yaml: valid\n", "")


@pytest.mark.slow
def test_every_file_is_checked_and_every_mistake_told() -> None:
    good, bad = experiment("measure", name="a.yaml"), write("id: a b\npipeline: [{nam: s}]\n", "b.yaml")
    done = crucible("validate", bad, good, "missing.yaml")
    assert done.returncode == 2
    assert done.stdout == "a.yaml: valid\n"
    assert len(done.stderr.splitlines()) == 3
    as_json = crucible_here("validate", "--json", bad, good, "missing.yaml")
    assert as_json.exit_code == 2
    data = json.loads(as_json.stdout)
    assert data["a.yaml"] == {"valid": True, "mistakes": [], "warnings": []}
    assert [(one["line"], one["column"]) for one in data["b.yaml"]["mistakes"]] == [(1, 1), (2, 13)]
    assert data["missing.yaml"]["mistakes"][0]["message"].startswith("there is no such file")


def test_validating_runs_nothing() -> None:
    assert crucible_here("validate", experiment("sleep: {seconds: 60, ready: ran}", "report")).exit_code == 0
    assert not Path("ran").exists()
    assert not Path("reports").exists()


# --- stages -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stages_are_listed_with_their_first_sentence() -> None:
    done = crucible("stages")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    assert set(builtin_registry().names()) <= set(lines)
    assert lines["bench"] == "Compares groups of numbers with statistical tests."


@pytest.mark.slow
def test_stages_as_json_are_their_descriptions() -> None:
    listed = json.loads(crucible("stages", "--json").stdout)
    assert [one["name"] for one in listed] == list(builtin_registry().names())
    assert json.loads(crucible_here("stages", "bench", "--json").stdout) == json.loads(
        json.dumps(builtin_registry().describe("bench"))
    )


def test_one_stage_is_described_with_its_options() -> None:
    shown = crucible_here("stages", "stages_for_tests:Train").stdout
    for part in (
        "Fits a line",
        "epochs: int  (required)",
        "How often every point is seen.",
        "seeds: list[int]  (default [0])",
    ):
        assert part in shown


def test_a_default_made_by_a_factory_is_shown_as_it_is() -> None:
    Path("made.py").write_text(
        "from pydantic import Field\nfrom crucible_core import Context, Stage\nclass Load(Stage):\n    'Loads.'\n"
        "    files: list[str] = Field(default_factory=list)\n    def run(self, ctx): return ctx\n"
    )
    shown = crucible_here("stages", "made:Load").stdout
    assert "files: list[str]  (default [])" in shown


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("bnech", "did you mean 'bench'?"),
        ("os:system", "is not a stage"),
        ("not_there:X", "there is no module 'not_there'"),
        ("a b", ""),
        ("", ""),
    ],
)
def test_an_unknown_stage_exits_with_2(name: str, part: str) -> None:
    done = crucible_here("stages", name)
    assert done.exit_code == 2
    assert part in done.stderr


# --- schema -----------------------------------------------------------------------------------------------------------


def test_in_a_pipe_the_progress_of_the_stages_is_a_line_each_and_nothing_between() -> None:
    Path("bare.yaml").write_text("id: bare\npipeline: [{name: validate}, {name: again, module: validate}]\n")
    shown = crucible_here("run", "bare.yaml").output.splitlines()[1:5]
    assert [line.split()[:2] for line in shown] == [
        ["…", "validate"],
        ["✓", "validate"],
        ["…", "again"],
        ["✓", "again"],
    ]


@pytest.mark.slow
def test_the_schema_describes_the_file_and_refuses_what_the_loader_refuses() -> None:
    done = crucible("schema")
    assert (done.returncode, done.stderr) == (0, "")
    schema = json.loads(done.stdout)
    assert schema == json.loads(crucible_here("schema").stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(Experiment.model_fields)
    assert schema["required"] == ["id", "pipeline"]
    assert schema["additionalProperties"] is False
    stage = schema["$defs"]["StageDef"]
    assert set(stage["properties"]) == {"name", "module", "options", "enabled", "timeout", "retry", "always", "cache"}
    assert stage["additionalProperties"] is False
    assert all(one.get("description") for name, one in stage["properties"].items() if name != "retry")


def conforms(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The part of JSON Schema that the schema uses, in the words of the specification."""
    if "$ref" in schema:
        return conforms(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return any(conforms(value, one, root) for one in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind in {"integer", "number"})):
        return False
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if any(name not in value for name in schema.get("required", ())):
            return False
        for name, inner in value.items():
            if name in properties:
                if not conforms(inner, properties[name], root):
                    return False
            elif more is False or (isinstance(more, dict) and not conforms(inner, more, root)):
                return False
    if isinstance(value, list) and "items" in schema:
        return all(conforms(inner, schema["items"], root) for inner in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (
            value >= schema.get("minimum", value)
            and value <= schema.get("maximum", value)
            and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
            and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        )
    return True


@pytest.mark.parametrize(
    "file",
    sorted(HERE.parent.glob("examples/**/*.yaml")) + sorted(HERE.glob("interchange/*.json")),
    ids=lambda f: f.name,
)
@pytest.mark.slow
def test_the_schema_accepts_the_examples(file: Path) -> None:
    schema = json.loads(crucible_here("schema").stdout)
    experiment = load_experiment(file).to_dict()
    assert conforms(experiment, schema, schema)
    if _has_jsonschema():
        import jsonschema

        jsonschema.validate(experiment, schema)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "a"},
        {"id": "a", "pipeline": [{"name": "s", "option": {}}]},
        {"id": "a", "pipeline": [{"name": "s"}], "outputs": [{"name": "r", "formats": ["docx"]}]},
        {"id": "a", "pipeline": [{"name": "s"}], "reliability": {"stats": {"alpha": 2}}},
        {"id": "a", "pipeline": [{"name": "s", "enabled": "yes"}]},
        {"id": "a", "pipeline": []},
        {"id": "a b", "pipeline": [{"name": "s"}]},
    ],
)
def test_the_schema_refuses_a_bad_file(bad: dict[str, Any]) -> None:
    schema = json.loads(crucible_here("schema").stdout)
    if _has_jsonschema():
        import jsonschema

        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    elif bad["id"] == "a b":
        assert re.fullmatch(schema["properties"]["id"]["pattern"], "a b") is None
    elif bad.get("pipeline") == []:
        assert schema["properties"]["pipeline"]["minItems"] == 1
    else:
        assert not conforms(bad, schema, schema)


def _has_jsonschema() -> bool:
    import importlib.util

    return importlib.util.find_spec("jsonschema") is not None


# --- surroundings -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_list_of_commands_says_what_each_command_says_of_itself() -> None:
    listed = {name: command for name, command in main.commands.items() if isinstance(command, LazyCommand)}
    assert set(listed) > set(commands.__all__)
    for command in listed.values():
        module, _, attribute = command.target.partition(":")
        described = getattr(importlib.import_module(module), attribute).help
        assert command.help == described.partition("\n\n")[0]


@pytest.mark.slow
def test_a_command_of_a_package_that_cannot_be_loaded_says_so_and_the_others_work() -> None:
    about = Path("site/broken-1.0.dist-info")
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[crucible.commands]\nbroken = nowhere_to_be_found:command\n")
    path = os.pathsep.join([PATH, str(Path("site").absolute())])
    listed = crucible("--help", PYTHONPATH=path)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "validate" in listed.stdout
    assert "(the entry point 'broken'" in listed.stdout
    called = crucible("broken", PYTHONPATH=path)
    assert called.returncode == 2
    assert called.stderr.startswith("error: the entry point 'broken' (nowhere_to_be_found:command) of crucible.")


@pytest.mark.parametrize("arguments", [["rnu"], ["run"], ["run", "--sed", "1", "f.yaml"], ["--jsn"], ["validate"]])
def test_a_mistake_in_the_command_line_begins_as_every_other_mistake(arguments: list[str]) -> None:
    done = crucible_here(*arguments)
    assert done.exit_code == 2
    assert re.search(r"^error: [a-z]", done.stderr, flags=re.MULTILINE)
    assert "Error:" not in done.stderr


@pytest.mark.slow
def test_the_version_is_shown() -> None:
    from crucible_core import __version__

    assert crucible("--version").stdout == f"crucible, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["-h"], ["--help"], ["run", "-h"], ["validate", "-h"], ["stages", "-h"], ["schema", "-h"]]
)
def test_help_is_shown(arguments: list[str]) -> None:
    done = crucible_here(*arguments)
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: ")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_pipe_that_takes_no_check_marks_gets_something_it_takes(encoding: str) -> None:
    outputs = "outputs: [{name: r, sink: stdout}]\n"
    file = experiment("measure: {name: größe}", "choose: {decision: ε²}", "report", more=outputs)
    for arguments in (["run", file], ["run", "--json", file]):
        done = subprocess.run(
            [CRUCIBLE, *arguments],
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": PATH, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_stop_the_run() -> None:
    file = experiment("measure", "sleep: {seconds: 0.3, ready: ready}", "report")
    process = started("run", file)
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=30)
    process.stderr.close()
    assert list(Path("reports/tried").glob("*/report.md"))
    assert "Traceback" not in err


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Run the command with a terminal of 100 columns as its standard output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"PYTHONPATH": PATH, "TERM": "xterm-256color", "COLUMNS": "100"})
        os.execv(CRUCIBLE, [CRUCIBLE, *arguments])
    shown = b""
    while True:
        if not select.select([terminal], [], [], 30)[0]:
            os.kill(pid, signal.SIGKILL)
            break
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


@pytest.mark.slow
def test_a_terminal_shows_live_progress_and_is_left_as_it_was() -> None:
    code, shown = on_a_terminal("run", experiment("measure", "say", "sleep: {seconds: 0.3}", "choose"))
    assert code == 0
    assert "\x1b[" in shown
    assert "3 of 4" in shown
    assert "hello from a stage" in shown
    assert "✓" in shown
    assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l")


@pytest.mark.slow
def test_a_terminal_shows_a_failure() -> None:
    code, shown = on_a_terminal("run", experiment("measure", "fail"))
    assert code == 1
    assert "the loss is NaN" in shown
    assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l")
