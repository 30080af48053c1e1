"""Logs of Inspect and of the lm-evaluation-harness, made by them: read without them, and compared."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from scipy import stats

from crucible_adapters.logs.inspect_log import LoadInspect
from crucible_adapters.logs.lm_eval_log import LoadLmEval
from crucible_core import Context, Experiment, StageFailedError, load_experiment, run_experiment

EXAMPLES = Path(__file__).parents[2] / "examples" / "llm_logs"
LOGS = EXAMPLES / "logs"
CHOICE, TEXT = sorted((LOGS / "lm_eval_1").glob("samples_*.jsonl"))
INSPECT, LM_EVAL = "crucible_adapters.logs:LoadInspect", "crucible_adapters.logs:LoadLmEval"


def load(module: str, logs: Any, **options: Any) -> Context:
    """Runs the stage, with these options."""
    pipeline = [{"name": "load", "module": module, "options": {"logs": logs, **options}}]
    return run_experiment(Experiment.model_validate({"id": "logs", "pipeline": pipeline}))


def refusal(module: str, logs: Any, **options: Any) -> str:
    """The one sentence that the stage fails with."""
    with pytest.raises(StageFailedError) as caught:
        load(module, logs, **options)
    said = str(caught.value)
    assert "Traceback" not in said
    assert "\n" not in said
    return said


def column(ctx: Context, name: str, **only: Any) -> list[Any]:
    return [one[name] for one in ctx.outputs if all(one[key] == value for key, value in only.items())]


# --- Inspect ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> Context:
    logs = {"small": str(LOGS / "small.eval"), "large": str(LOGS / "large.eval")}
    return load(INSPECT, logs, scorer="match", cluster="passage")


def test_a_log_of_inspect_becomes_an_output_for_each_answer(judged: Context) -> None:
    assert len(judged.outputs) == 2 * 12 * 2
    assert judged.outputs[0] == {
        "group": "small",
        "task": "doubling",
        "model": "mockllm/small",
        "item": "q00",
        "epoch": 1,
        "cluster": "p0",
        "score": 1.0,
        "answer": "0",
        "target": "0",
    }
    # What the script makes each model answer: mistakes, a second answer to q06, and one sample that fails.
    for group, mistakes in {"small": {2, 3, 5, 8, 9, 11}, "large": {3, 11}}.items():
        assert column(judged, "score", group=group, epoch=1) == [float(n not in mistakes) for n in range(12)]
        second: list[float | None] = [float(n not in mistakes | {6}) for n in range(12)]
        if group == "small":
            second[7] = None
        assert column(judged, "score", group=group, epoch=2) == second


def test_the_mean_is_the_accuracy_that_inspect_wrote(judged: Context) -> None:
    held = json.loads((LOGS / "small.json").read_text())
    (accuracy,) = [one["metrics"]["accuracy"]["value"] for one in held["results"]["scores"] if one["name"] == "match"]
    # Inspect takes the mean over items: of the one whose second sample failed, the first counts alone.
    by_item = [[one for one in column(judged, "score", group="small", item=f"q{n:02}") if one is not None]
               for n in range(12)]  # fmt: skip
    assert sum(sum(one) / len(one) for one in by_item) / 12 == pytest.approx(accuracy)
    assert judged.metrics["logs"]["small"] == {
        "models": ["mockllm/small"],
        "tasks": ["doubling"],
        "logs": 1,
        "items": 12,
        "answers": 24,
        "missing": 1,
        "mean": 10 / 23,
    }


def test_both_forms_of_a_log_say_the_same() -> None:
    packed, plain = (load(INSPECT, {"small": str(LOGS / f"small.{form}")}, scorer="match") for form in ("eval", "json"))
    assert plain.outputs == packed.outputs


def test_a_log_of_an_older_inspect_is_compressed_otherwise(tmp_path: Path, judged: Context) -> None:
    repacked(tmp_path / "large.eval")
    found = load(INSPECT, {"large": str(tmp_path)}, scorer="match", cluster="passage")
    assert list(found.outputs) == [one for one in judged.outputs if one["group"] == "large"]


def test_a_value_of_a_scorer_that_gives_several(judged: Context) -> None:
    logs = {"large": str(LOGS / "large.eval")}
    right = load(INSPECT, logs, scorer="judged", part="right")
    assert column(right, "score") == column(judged, "score", group="large")
    assert set(column(load(INSPECT, logs, scorer="judged", part="length"), "score")) == {1.0, 2.0}
    assert "has several parts, length, right: choose one with `part`" in refusal(INSPECT, logs, scorer="judged")
    assert "so there is no part 'right'" in refusal(INSPECT, logs, scorer="match", part="right")


def test_further_logs_of_a_task_are_further_epochs(tmp_path: Path) -> None:
    shutil.copyfile(LOGS / "large.eval", tmp_path / "again.eval")
    found = load(INSPECT, {"large": [str(LOGS / "large.eval"), str(tmp_path / "again.eval")]}, scorer="match")
    assert column(found, "epoch", item="q03") == [1, 2, 3, 4]
    twice = [str(LOGS / "large.eval")] * 2
    assert "large.eval is named twice" in refusal(INSPECT, {"large": twice}, scorer="match")


def test_neither_tool_is_imported() -> None:
    code = (
        "import sys; from crucible_core import load_experiment, run_experiment;"
        f"[run_experiment(load_experiment(file)) for file in {[str(file) for file in EXAMPLES.glob('*.yaml')]}];"
        "print({'inspect_ai', 'lm_eval', 'datasets', 'torch'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- the lm-evaluation-harness ----------------------------------------------------------------------------------------


def test_a_sample_log_becomes_an_output_for_each_document() -> None:
    found = load(LM_EVAL, {"first": str(CHOICE)}, metric="acc", cluster="passage")
    lines = [json.loads(line) for line in CHOICE.read_text().splitlines()]
    assert column(found, "score") == [one["acc"] for one in lines]
    assert column(found, "cluster") == [one["doc"]["passage"] for one in lines]
    assert column(found, "item") == [str(number) for number in range(12)]
    assert set(column(found, "model")) == {"guesser"}
    results = json.loads(next((LOGS / "lm_eval_1").glob("results_*.json")).read_text())
    assert found.metrics["logs"]["first"]["mean"] == results["results"]["doubling_choice"]["acc,none"]


def test_answers_of_one_filter_are_read() -> None:
    found = load(LM_EVAL, {"first": str(TEXT)}, filter="loose")
    assert column(found, "answer") == ["lol"] * 12
    assert column(found, "target") == [str(2 * number) for number in range(12)]
    said = refusal(LM_EVAL, {"first": str(TEXT)})
    assert "has several filters" in said
    assert "choose one with `filter`" in said
    assert "did you mean 'strict'?" in refusal(LM_EVAL, {"first": str(TEXT)}, filter="stric")
    assert "has several metrics" in refusal(LM_EVAL, {"first": str(CHOICE)})


def test_items_of_several_tasks_are_told_apart(tmp_path: Path) -> None:
    for file in (CHOICE, TEXT):
        text = file.read_text().replace('"exact_match"', '"acc"').replace('"filter": "strict"', '"filter": "none"')
        (tmp_path / file.name).write_text(text)
    found = load(LM_EVAL, {"first": str(tmp_path)}, metric="acc", filter="none")
    assert len(set(column(found, "item"))) == 24
    assert column(found, "item")[:1] == ["doubling_choice/0"]
    one = load(LM_EVAL, {"first": str(tmp_path)}, metric="acc", filter="none", tasks=["doubling_text"])
    assert column(one, "item")[:1] == ["0"]
    assert "no log is of task 'doublin_text'; did you mean 'doubling_text'?" in refusal(
        LM_EVAL, {"first": str(tmp_path)}, metric="acc", filter="none", tasks=["doublin_text"]
    )


def test_a_folder_with_two_logs_of_a_task_does_not_say_which_is_meant(tmp_path: Path) -> None:
    for date in ("2026-01-01T00-00-00.000000", "2026-01-02T00-00-00.000000"):
        shutil.copyfile(CHOICE, tmp_path / f"samples_doubling_choice_{date}.jsonl")
    assert "has 2 logs of task 'doubling_choice': name the one to read" in refusal(
        LM_EVAL, {"first": str(tmp_path)}, metric="acc"
    )


# --- compared ---------------------------------------------------------------------------------------------------------


def example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path))
    return run_experiment(load_experiment(EXAMPLES / f"{name}.yaml"))


def test_two_logs_of_inspect_are_compared_by_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = example("inspect", tmp_path, monkeypatch)
    test = ctx.metrics["bench"]["tests"]["clustered_ttest"]
    assert test["groups"] == ["small", "large"]
    assert ctx.metrics["bench"]["groups"]["small"]["n"] == 23
    assert "12 clusters with 1 to 2 values of each group" in test["notes"]
    assert ctx.metrics["bench"]["dropped"]


def test_a_comparison_clustered_by_item_is_the_paired_test_of_the_items(judged: Context) -> None:
    """With two answers to each item (the failed one left out on both sides), scipy's paired t-test of the means."""
    bench = {"data": "assigns.kept", "design": "clustered", "clusters": "assigns.items"}
    kept = [one for one in judged.outputs if one["item"] != "q07"]
    groups = {name: [one["score"] for one in kept if one["group"] == name] for name in ("small", "large")}
    items = [one["item"] for one in kept if one["group"] == "small"]
    experiment = Experiment.model_validate({"id": "items", "pipeline": [{"name": "bench", "options": bench}]})
    ctx = run_experiment(experiment, assigns={"kept": groups, "items": items})
    means = [[sum(v for v, i in zip(values, items, strict=True) if i == item) / 2 for item in dict.fromkeys(items)]
             for values in groups.values()]  # fmt: skip
    expected = stats.ttest_rel(*means)
    assert ctx.metrics["bench"]["tests"]["clustered_ttest"]["p_value"] == pytest.approx(expected.pvalue)


def test_two_sample_logs_are_compared_pair_by_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = example("lm_eval", tmp_path, monkeypatch)
    (test,) = ctx.metrics["bench"]["tests"].values()
    assert test["test"] == "mcnemar_midp"
    first, second = (column(ctx, "score", group=name) for name in ("first", "second"))
    assert f"{sum(a != b for a, b in zip(first, second, strict=True))} discordant pairs" in test["notes"][0]


@pytest.mark.parametrize("name", ["inspect", "lm_eval"])
def test_the_comparison_takes_ten_lines(name: str) -> None:
    lines = (EXAMPLES / f"{name}.yaml").read_text().splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith("#")]) <= 10


def test_logs_that_asked_something_else_are_not_compared(tmp_path: Path) -> None:
    text = CHOICE.read_text().splitlines()
    other = json.loads(text[3])
    other["doc_hash"] = "0" * 64
    changed = tmp_path / CHOICE.name
    changed.write_text("\n".join([*text[:3], json.dumps(other), *text[4:]]))
    logs = {"first": str(CHOICE), "second": str(changed)}
    assert "item '3' is one question in" in refusal(LM_EVAL, logs, metric="acc")
    assert len(load(LM_EVAL, logs, metric="acc", same_questions=False).outputs) == 24

    held = json.loads((LOGS / "small.json").read_text())
    held["samples"][3]["input"] += " Think."
    (tmp_path / "other.json").write_text(json.dumps(held))
    assert "these logs are of different data" in refusal(
        INSPECT, {"small": str(LOGS / "small.eval"), "other": str(tmp_path / "other.json")}, scorer="match"
    )


def test_paths_are_relative_to_the_file_of_the_experiment(tmp_path: Path) -> None:
    assert load_experiment(EXAMPLES / "inspect.yaml").folder == EXAMPLES
    assert not (tmp_path / "logs").exists()  # where the test runs
    assert "there is no file or folder" in refusal(INSPECT, {"small": "logs/small.eval"})
    assert "did you mean 'small.eval'?" in refusal(INSPECT, {"small": str(LOGS / "smal.eval")})


# --- files that anybody may have made ---------------------------------------------------------------------------------


def repacked(
    to: Path,
    change: Callable[[str, bytes], bytes | None] = lambda name, held: held,
    compression: int = zipfile.ZIP_DEFLATED,
) -> None:
    """The log large.eval with entries that `change` has made of its own; None leaves one out."""
    with zipfile.ZipFile(LOGS / "large.eval") as source, zipfile.ZipFile(to, "w", compression) as goal:
        for info in source.infolist():
            held = change(info.filename, unpacked(LOGS / "large.eval", info))
            if held is not None:
                goal.writestr(info.filename, held)


def unpacked(path: Path, info: zipfile.ZipInfo) -> bytes:
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        file.seek(name + extra, 1)
        packed = file.read(info.compress_size)
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed), read_across_frames=True).read()


def changed_sample(**fields: Any) -> Callable[[str, bytes], bytes]:
    def change(name: str, held: bytes) -> bytes:
        return json.dumps({**json.loads(held), **fields}).encode() if name == "samples/q03_epoch_1.json" else held

    return change


def archives() -> Iterator[Any]:
    bomb = b'{"id": "' + b" " * 40_000_000 + b'"}'
    yield pytest.param(lambda name, held: bomb if name.startswith("samples/") else held, "more than 9 MB", id="bomb")
    yield pytest.param(lambda name, held: b"x" if "q03" in name else held, "q03_epoch_1.json is not JSON", id="text")
    deep = b"[" * 100_000
    yield pytest.param(lambda name, held: deep if "q03" in name else held, "nested too deeply", id="deep")
    yield pytest.param(lambda name, held: b"[]" if "q03" in name else held, "is not a JSON object", id="list")
    yield pytest.param(lambda name, held: None if "header" in name or "start" in name else held,
                       "has no header.json", id="no header")  # fmt: skip
    yield pytest.param(lambda name, held: b"{}" if "header" in name else held, "has no `eval`", id="empty header")
    yield pytest.param(lambda name, held: None if "samples/" in name else held, "there is no answer", id="no samples")
    yield pytest.param(lambda name, held: None if name == "header.json" else held,
                       "whose status is 'started'; set `incomplete: true`", id="not ended")  # fmt: skip
    score = {"match": {"value": "very good"}}
    yield pytest.param(changed_sample(scores=score), "a score that is not a number: 'very good'", id="word")
    yield pytest.param(changed_sample(scores={"match": 1}), "a score without a value", id="no value")
    yield pytest.param(changed_sample(scores={"match": {"value": 10**400}}), "too large", id="huge")
    yield pytest.param(changed_sample(scores={"other": score["match"]}), "has no scorer 'match'", id="other scorer")
    yield pytest.param(changed_sample(id=None), "has no `id`", id="no id")
    yield pytest.param(changed_sample(id="q04"), "has two samples 'q04' of epoch 1", id="twice")
    yield pytest.param(changed_sample(metadata={}), "has no field 'passage' for `cluster`", id="no cluster")
    yield pytest.param(changed_sample(metadata={"passage": []}), "that is not a name: []", id="cluster")


@pytest.mark.parametrize(("change", "said"), archives())
def test_a_log_of_inspect_that_is_not_right_is_refused_in_a_sentence(tmp_path: Path, change: Any, said: str) -> None:
    repacked(tmp_path / "log.eval", change)
    logs = {"a": str(tmp_path / "log.eval")}
    assert said in refusal(INSPECT, logs, scorer="match", cluster="passage", max_megabytes=9)


def test_a_bomb_of_zstandard_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    # 4 GB of blanks in a few kB, in an entry whose header says that it is small.
    packer = zstandard.ZstdCompressor()
    packed = packer.compress(b" " * 200_000_000) * 20
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as goal:
        goal.writestr("header.json", packed)
    held = bytearray((tmp_path / "log.eval").read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = held.index(signature) + place
        held[at : at + 2] = (93).to_bytes(2, "little")
    (tmp_path / "log.eval").write_bytes(held)
    assert "header.json is damaged" in refusal(INSPECT, {"a": str(tmp_path / "log.eval")})
    at = held.index(b"PK\x01\x02") + 24
    held[at : at + 4] = (4_000_000_000).to_bytes(4, "little")
    (tmp_path / "log.eval").write_bytes(held)
    assert "holds more than 50 MB; `max_megabytes` allows more" in refusal(
        INSPECT, {"a": str(tmp_path / "log.eval")}, max_megabytes=50
    )


@pytest.mark.parametrize("keep", [0, 10, 5_000, 20_000])
def test_a_log_of_inspect_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    (tmp_path / "log.eval").write_bytes((LOGS / "large.eval").read_bytes()[:keep])
    assert "is not a zip file, or is cut off" in refusal(INSPECT, {"a": str(tmp_path / "log.eval")})


def test_a_damaged_entry_is_noticed(tmp_path: Path) -> None:
    held = bytearray((LOGS / "large.eval").read_bytes())
    at = held.index(b"samples/q03_epoch_1.json") + 200
    held[at : at + 20] = bytes(20)
    (tmp_path / "log.eval").write_bytes(held)
    assert "samples/q03_epoch_1.json is damaged" in refusal(INSPECT, {"a": str(tmp_path / "log.eval")}, scorer="match")


def test_what_there_is_of_an_evaluation_that_was_cancelled_can_be_read(tmp_path: Path) -> None:
    repacked(tmp_path / "log.eval", lambda name, held: None if name == "header.json" or "q11" in name else held)
    found = load(INSPECT, {"a": str(tmp_path / "log.eval")}, scorer="match", incomplete=True)
    assert found.metrics["logs"]["a"]["items"] == 11
    assert found.metrics["logs"]["a"]["models"] == ["mockllm/large"]


def lines() -> Iterator[Any]:
    for change, said in {
        "{": "is not JSON",
        "[1]": "is not a JSON object",
        '{"doc_id": 3}': "does not name its `metrics`",
        '{"doc": {}, "metrics": ["acc"], "acc": 1.0}': "it has no `doc_id`",
        '{"doc_id": 3, "doc": {"passage": "p"}, "metrics": ["acc"], "acc": [1]}': "is not a number for each document",
        '{"doc_id": 3, "doc": {}, "metrics": ["acc"], "acc": 1}': "has no field 'passage' for `cluster`",
        '{"doc_id": 3, "doc": null, "metrics": ["acc"], "acc": 1}': "there is: None",
        '{"doc_id": 3, "doc": {"passage": "p"}, "metrics": ["f1"], "f1": 1}': "has no metric 'acc'",
        '{"doc_id": 0, "doc": {"passage": "p"}, "metrics": ["acc"], "acc": 1}': "is a second answer to document 0",
        '{"doc_id": 3, "doc": "' + "x" * 2_000_000 + '"}': "holds more than 1 MB",
    }.items():
        yield pytest.param(change, said, id=change[:60])


@pytest.mark.parametrize(("line", "said"), lines())
def test_a_sample_log_that_is_not_right_is_refused_in_a_sentence(tmp_path: Path, line: str, said: str) -> None:
    text = CHOICE.read_text().splitlines()
    line = line.replace('{"doc_id"', '{"filter": "none", "doc_id"').replace('{"doc":', '{"filter": "none", "doc":')
    (tmp_path / CHOICE.name).write_text("\n".join([*text[:3], line, *text[4:]]))
    logs = {"a": str(tmp_path / CHOICE.name)}
    assert said in refusal(LM_EVAL, logs, metric="acc", cluster="passage", max_megabytes=1)


def test_a_file_of_another_name_or_an_empty_folder_is_refused(tmp_path: Path) -> None:
    shutil.copyfile(CHOICE, tmp_path / "mine.jsonl")
    assert "is not named samples_TASK_DATE.jsonl" in refusal(LM_EVAL, {"a": str(tmp_path / "mine.jsonl")})
    assert "were samples logged (`--log_samples`)?" in refusal(LM_EVAL, {"a": str(tmp_path)})
    assert "has no .eval and no .json file" in refusal(INSPECT, {"a": str(tmp_path)})


def test_a_missing_score_is_none(tmp_path: Path) -> None:
    text = CHOICE.read_text().replace('"acc": 0.0', '"acc": NaN', 1)
    (tmp_path / CHOICE.name).write_text(text)
    found = load(LM_EVAL, {"a": str(tmp_path / CHOICE.name)}, metric="acc")
    assert column(found, "score").count(None) == found.metrics["logs"]["a"]["missing"] == 1


def test_every_option_is_described() -> None:
    for stage in (LoadInspect, LoadLmEval):
        assert all(field.description for field in stage.model_fields.values())
