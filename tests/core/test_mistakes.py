"""What newcomers mistype, and what they must read: an exit code, one or two sentences, the place, what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from crucible_core.cli import main
from crucible_core.ir.loading import is_experiment

STAGES = """\
from crucible_core import Context, stage

@stage
def toss(ctx: Context, *, tosses: int = 3) -> Context:
    return ctx.put_metric("n", tosses)

@stage
def count(ctx: Context) -> Context:
    return ctx
"""
TWO = """\
id: coins
pipeline:
  - {name: toss, module: 'coin_stages:toss'}
  - {name: count, module: 'coin_stages:count'}
"""
COMPARED = TWO + "  - {name: bench, options: {alpha: 0.05}}\n"


class Mistake(NamedTuple):
    file: str | bytes
    said: str
    """A regular expression for all of what is said after `error: `."""
    module: str = STAGES
    name: str = "coins.yaml"
    code: int = 2


MISTAKES: Mapping[str, Mistake] = {
    "wrong module": Mistake(
        TWO.replace("coin_stages:", "coin_stagez:"),
        r"coins.yaml:3:18: stage 'toss': there is no module 'coin_stagez' to import \(looked beside the experiment "
        r"file in \S+ too\); did you mean 'coin_stages'\?",
    ),
    "wrong module in a package": Mistake(
        TWO.replace("coin_stages:", "lib.stepz:"),
        r"coins.yaml:3:18: stage 'toss': there is no module 'lib.stepz' .*; did you mean 'lib.steps'\?",
    ),
    "wrong attribute": Mistake(
        TWO.replace(":toss'", ":tos'"),
        r"coins.yaml:3:18: stage 'toss': 'coin_stages' has no 'tos'; did you mean 'toss'\?; its stages: count, toss",
    ),
    "dot for colon": Mistake(
        TWO.replace(":toss'", ".toss'"),
        r"coins.yaml:3:18: stage 'toss': unknown stage 'coin_stages.toss'.*`module: coin_stages:toss`",
    ),
    "UTF-16": Mistake(TWO.encode("utf-16"), r"coins.yaml: this file is UTF-16; save it as UTF-8"),
    "UTF-16 without a mark": Mistake(TWO.encode("utf-16-le"), r"coins.yaml: this file is UTF-16; save it as UTF-8"),
    "another encoding": Mistake(
        "id: é\n".encode("latin-1"),
        r"coins.yaml: this file is not UTF-8: byte 4 is 0xe9; save it as UTF-8",
    ),
    "tab before a key": Mistake(
        "id: coins\npipeline:\n\t- name: toss\n",
        r"coins.yaml:3:1: this file is not valid YAML: there is a tab before or in this line's text; use spaces",
    ),
    "tab in a mapping": Mistake(
        "id: coins\npipeline:\n  - name: toss\n  \tmodule: 'coin_stages:toss'\n",
        r"coins.yaml:\d:\d+: this file is not valid YAML: there is a tab before or in this line's text; use spaces",
    ),
    "colon in a text": Mistake(
        "id: coins:\npipeline: []\n",
        r"coins.yaml:1:10: this file is not valid YAML: a text with a colon must be quoted: id: \"coins:\"",
    ),
    "colon in a text of a list": Mistake(
        "id: coins\npipeline:\n  - name: toss: twice\n",
        r"coins.yaml:3:15: this file is not valid YAML: a text with a colon must be quoted: name: \"toss: twice\"",
    ),
    "import error in the stage's module": Mistake(
        TWO,
        r"coins.yaml:3:18: stage 'toss': importing 'coin_stages' failed: ModuleNotFoundError: No module named 'nunpy' "
        r"\(\S+/coin_stages.py, line 1\)",
        module="import nunpy\n" + STAGES,
    ),
    "import error in a helper": Mistake(
        TWO,
        r"coins.yaml:3:18: stage 'toss': importing 'coin_stages' failed: ImportError: cannot import name 'nothing' "
        r"from 'lib.steps' \(\S+\) \(\S+/coin_stages.py, line 2\)",
        module="x = 1\nfrom lib.steps import nothing\n" + STAGES,
    ),
    "syntax error in the stage's module": Mistake(
        TWO,
        r"coins.yaml:3:18: stage 'toss': importing 'coin_stages' failed: SyntaxError: '\(' was never closed "
        r"\(\S+/coin_stages.py, line 2\)",
        module="x = 1\ny = (\n",
    ),
    "the module instead of the file": Mistake(
        TWO, r"coin_stages.py: this is Python; an experiment is a YAML or JSON file; beside it: coins.yaml",
        name="coin_stages.py",
    ),
    "no such file": Mistake(TWO, r"coin.yaml: there is no such file; its folder holds: coins.yaml", name="coin.yaml"),
    "unknown key": Mistake(
        TWO.replace("pipeline", "pipline"), r"coins.yaml:2:1: unknown key 'pipline'; did you mean 'pipeline'\?"
    ),
    "unknown option": Mistake(
        TWO.replace("toss'}", "toss', options: {toses: 3}}"),
        r"coins.yaml:3:56: stage 'toss' has no option 'toses'; did you mean 'tosses'\?; its options: tosses",
    ),
    "required option misspelt": Mistake(
        TWO.replace("toss'}", "toss', options: {toses: 3}}"),
        r"coins.yaml:3:56: stage 'toss' has no option 'toses'; did you mean 'tosses'\?; its options: tosses",
        module=STAGES.replace("tosses: int = 3", "tosses: int"),
    ),
    "wrong type of an option": Mistake(
        TWO.replace("toss'}", "toss', options: {tosses: many}}"),
        r"coins.yaml:3:56: stage 'toss', option tosses: should be a valid integer \(given: 'many'\)",
    ),
    "a text for a list": Mistake(
        TWO.replace("toss'}", "toss', options: {tosses: 3}}"),
        r"coins.yaml:3:56: stage 'toss', option tosses: should be a list \(given: 3\)",
        module=STAGES.replace("int = 3", "list[int] = [3]"),
    ),
    "unknown test": Mistake(
        TWO + "  - {name: bench, options: {tests: [t_test]}}\n",
        r"coins.yaml:5:37: stage 'bench', option tests.0: this is not one of the \d+ values that it "
        r"takes; did you mean "
        r"'ttest'\? \(given: 't_test'\)",
    ),
    "minute of a cron": Mistake(
        TWO + "schedule: {cron: '99 * * * *'}\n",
        r"coins.yaml:5:12: schedule.cron: '99 \* \* \* \*' is not a cron schedule: its minute is "
        r"99, and goes from 0 to 59",
    ),
    "time zone": Mistake(
        TWO + "schedule: {cron: '@daily', timezone: Europe/Londn}\n",
        r"coins.yaml:5:28: schedule.timezone: 'Europe/Londn' is not an IANA time zone, such as "
        r"Europe/Berlin; did you mean "
        r"'Europe/London'\?",
    ),
    "a stage returns None": Mistake(
        TWO,
        r"stage 'toss' failed: TypeError: stage 'toss' returned None; run\(\) must return the Context: `return "
        r"ctx.put_metric\(...\)`",
        module=STAGES.replace("return ctx.put", "ctx.put"),
        code=1,
    ),
    "an empty group": Mistake(
        COMPARED,
        r"stage 'bench' failed: the groups cannot be compared: group 'a' is empty; it needs numbers",
        module=STAGES.replace("put_metric(\"n\", tosses)", "assign(bench_data={'a': [], 'b': [1, 2]})"),
        code=1,
    ),
    "one group": Mistake(
        COMPARED,
        r"stage 'bench' failed: no test can be chosen: a comparison needs at least two groups, but 1 were given",
        module=STAGES.replace("put_metric(\"n\", tosses)", "assign(bench_data={'a': [1, 2]})"),
        code=1,
    ),
    "NaN and None in the data": Mistake(
        COMPARED,
        r"stage 'bench' failed: the groups cannot be compared: group 'a' lacks 1 of 2 values "
        r"\(position 1, counted from "
        r"0\); group 'b' lacks 1 of 3 values \(position 0, counted from 0\): `missing: drop` "
        r"leaves them out and lists "
        r"them",
        module=STAGES.replace(
            "put_metric(\"n\", tosses)", "assign(bench_data={'a': [1, float('nan')], 'b': [None, 1, 2]})"
        ),
        code=1,
    ),
    "nothing to compare": Mistake(
        COMPARED,
        r"stage 'bench' failed: the groups cannot be compared: no stage before this one put "
        r"assigns\['bench_data'\]; did "
        r"you mean 'bench_dta'\?; assigns: bench_dta",
        module=STAGES.replace("put_metric(\"n\", tosses)", "assign(bench_dta={})"),
        code=1,
    ),
    "nothing to check": Mistake(
        TWO + "  - {name: data_checks}\n",
        r"stage 'data_checks' failed: there is nothing to check: no stage before this one put assigns\[\"examples\"\]",
        code=1,
    ),
    "key twice": Mistake(
        "id: coins\nid: coins\n", r"coins.yaml:2:1: the key 'id' occurs twice in one mapping"
    ),
    "relative path of data": Mistake(
        TWO,
        r"stage 'toss' failed: FileNotFoundError: \[Errno 2\] No such file or directory: 'data.csv' \(relative to the "
        r"working directory, \S+; use ctx.experiment.path\('data.csv'\) for a file beside the experiment file\)",
        module=STAGES.replace("return ctx.put", "open('data.csv')\n    return ctx.put"),
        code=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_said_once_with_its_place_and_what_to_do(mistake: Mistake) -> None:
    given = mistake.file if isinstance(mistake.file, bytes) else mistake.file.encode()
    Path("coins.yaml").write_bytes(given)
    Path("coin_stages.py").write_text(mistake.module)
    Path("lib").mkdir()
    Path("lib/steps.py").write_text(STAGES)
    done = CliRunner().invoke(main, ["run", mistake.name])
    assert done.exit_code == mistake.code, done.stderr
    before, _, said = done.stderr.partition("error: ")
    said = said.partition("\npartial results:")[0].strip()
    assert re.fullmatch(mistake.said, said), said
    assert "\n" not in said or "(?s)" in mistake.said, "one mistake is one sentence"
    assert "crucible_core/" not in done.stderr, "no frames of ours"
    assert done.output.count(said) == 1, "and once in all"
    if mistake.code == 2:
        assert not before
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", [TWO.replace("\n", "\r\n"), "\ufeff" + TWO, TWO.replace("id: coins", "id: münzen")])
def test_what_is_no_mistake(text: str) -> None:
    Path("coins.yaml").write_bytes(text.encode())
    Path("coin_stages.py").write_text(STAGES)
    done = CliRunner().invoke(main, ["validate", "coins.yaml"])
    assert (done.exit_code == 0) is ("münzen" not in text), done.stderr


ONE: dict[str, Any] = {"backend": {"model": "x"}, "id": "a", "pipeline": [{"name": "validate"}]}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", json.dumps(ONE, separators=(",", ":")), True),
        ("a.json", json.dumps(ONE, indent=2), True),
        ("a.yaml", "{description: flow, id: a, pipeline: [{name: validate}]}\n", True),
        ("a.yaml", "'id': a\n'pipeline':\n  - {name: validate}\n", True),
        ("a.yaml", '"pipeline": []\n', True),
        ("a.yaml", "  id: a\n  pipeline: []\n", True),
        ("a.yaml", "id: a\npipeline: [\n", True),
        ("a.yaml", "{id: a, pipeline: [\n", True),
        ("a.yaml", "- id: a\n  pipeline: []\n", True),
        ("a.yaml", "id: a\npipeline: []\n".encode("utf-16"), True),
        ("a.json", json.dumps(ONE, separators=(",", ":")).encode("utf-16-le"), True),
        ("a.json", json.dumps([{"id": 1, "text": "x"}]), False),
        ("a.json", json.dumps({"rows": [{"id": 1}]}, indent=2), False),
        ("a.yaml", "rows:\n  - name: x\n    id: 3\n", False),
        ("a.yaml", "description: only\n", False),
        ("a.yaml", "type: some.Component\nattributes:\n  id: a\n  pipeline: []\n", False),
        ("a.yaml", "", False),
    ],
)
def test_which_files_of_a_folder_are_experiments(name: str, text: str | bytes, expected: bool) -> None:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert is_experiment(Path(name)) is expected
