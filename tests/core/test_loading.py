"""Loading experiment files: what is read, what is refused, and how the refusal reads."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from crucible_core import CrucibleError, Experiment, InvalidExperimentError, load_experiment
from crucible_core.ir.guarded_yaml import MAX_ALIASES, MAX_DEPTH, MAX_SCALAR, MAX_VALUES
from crucible_core.ir.loading import MAX_BYTES, parse_scalar

GOOD = """\
id: digits
description: Two models, compared.
pipeline:
  - name: train
    options:
      lr: 1e-3
      layers: [16, 16]
  - name: bench
    options: {alpha: 0.01}
    retry: {max_retries: 2, delay: 0.5, backoff: linear}
outputs:
  - {name: summary, formats: [markdown, html]}
reliability:
  stats: {tests: [ttest]}
"""


def write(text: str | bytes, name: str = "experiment.yaml") -> Path:
    file = Path(name)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refusal(text: str | bytes, name: str = "experiment.yaml") -> InvalidExperimentError:
    file = write(text, name)
    started = time.process_time()
    with pytest.raises(InvalidExperimentError) as caught:
        load_experiment(file)
    assert time.process_time() - started < 1.0
    str(caught.value).encode()
    return caught.value


def option_of(text: str) -> Any:
    """The value that `x: TEXT` gives as an option."""
    loaded = load_experiment(write(f"id: a\npipeline:\n  - name: s\n    options:\n      x: {text}\n"))
    return loaded.pipeline[0].options["x"]


def test_a_yaml_file_becomes_an_experiment() -> None:
    experiment = load_experiment(write(GOOD))
    assert experiment.id == "digits"
    assert [stage.name for stage in experiment.pipeline] == ["train", "bench"]
    assert experiment.pipeline[0].options == {"lr": 0.001, "layers": [16, 16]}
    assert experiment.pipeline[1].retry.max_retries == 2
    assert experiment.stats.tests == ("ttest",)
    assert experiment.source.path == str(Path("experiment.yaml").absolute())
    assert experiment.folder == Path.cwd()


@pytest.mark.parametrize("name", ["experiment.yml", "experiment.YAML", "experiment", "experiment.txt"])
def test_any_other_suffix_than_json_is_read_as_yaml(name: str) -> None:
    assert load_experiment(write(GOOD, name)).id == "digits"


@pytest.mark.parametrize("name", ["experiment.json", "experiment.JSON"])
def test_a_json_file_says_the_same_as_the_yaml_file(name: str) -> None:
    from_yaml = load_experiment(write(GOOD))
    assert load_experiment(write(from_yaml.to_json(), name)) == from_yaml


def test_a_path_may_be_a_text() -> None:
    assert load_experiment(str(write(GOOD))).id == "digits"


@pytest.mark.parametrize("name", ["experiment.yaml", "experiment.json"])
def test_a_byte_order_mark_is_no_mistake(name: str) -> None:
    assert load_experiment(write(b"\xef\xbb\xbf" + b'{"id": "a", "pipeline": [{"name": "s"}]}', name)).id == "a"


def test_windows_line_ends_are_no_mistake() -> None:
    assert load_experiment(write(GOOD.replace("\n", "\r\n"))) == load_experiment(write(GOOD, "other.yaml"))


# --- what a newcomer gets wrong -----------------------------------------------------------------------------------

MISTAKES = [
    # text, line, column, parts of the message
    ("id: a\npipelin:\n  - name: s\n", 2, 1, ["unknown key 'pipelin'; did you mean 'pipeline'?"]),
    ("pipeline:\n  - name: s\n", 1, 1, ["'id' is missing"]),
    ("id: a\npipeline: []\n", 2, 1, ["the pipeline is empty", "at least one stage"]),
    ("id: a\npipeline:\n", 2, 1, ["pipeline", "given: None"]),
    ("id: a\npipeline: bench\n", 2, 1, ["pipeline", "given: 'bench'"]),
    ("id: a\npipeline:\n  - bench\n", 3, 5, ["pipeline.0", "given: 'bench'"]),
    ("id: a\npipeline:\n  - option: {}\n    name: s\n", 3, 5, ["'pipeline.0.option'", "did you mean 'options'?"]),
    ("id: a\npipeline:\n  - options: {}\n", 3, 5, ["'pipeline.0.name' is missing"]),
    ("id: a\npipeline:\n  - name: s\n    enabled: 1\n", 4, 5, ["pipeline.0.enabled", "boolean", "given: 1"]),
    ("id: a\npipeline:\n  - name: s\n    options: [1]\n", 4, 5, ["pipeline.0.options", "dictionary"]),
    ("id: a b\npipeline: [{name: s}]\n", 1, 1, ["'a b' cannot be a name", "letters"]),
    ("id: ../a\npipeline: [{name: s}]\n", 1, 1, ["'../a' cannot be a name"]),
    ("id: .a\npipeline: [{name: s}]\n", 1, 1, ["'.a' cannot be a name"]),
    ("id: -a\npipeline: [{name: s}]\n", 1, 1, ["'-a' cannot be a name"]),
    ("id: ''\npipeline: [{name: s}]\n", 1, 1, ["'' cannot be a name"]),
    ('id: "a\\n"\npipeline: [{name: s}]\n', 1, 1, ["'a\\n' cannot be a name"]),
    (f"id: {'a' * 129}\npipeline: [{{name: s}}]\n", 1, 1, ["cannot be a name", "128"]),
    ("id: 12\npipeline: [{name: s}]\n", 1, 1, ["id", "string", "given: 12"]),
    ("id: a\npipeline:\n  - name: s\n  - name: t\n  - name: s\n", 5, 5, ["'s'", "positions 1 and 3", "module:"]),
    (
        "id: a\npipeline: [{name: s}]\noutputs: [{name: r}, {name: r}]\n",
        3,
        23,
        ["'r'", "positions 1 and 2", "a name of its own"],
    ),
    (
        "id: a\npipeline: [{name: s}]\noutputs:\n  - name: r\n    formats: [markdown, docx]\n",
        5,
        25,
        ["outputs.0.formats.1", "'docx'", "'csv', 'html', 'json', 'jsonl', 'latex' or 'markdown'"],
    ),
    ("id: a\npipeline: [{name: s}]\noutputs: [{name: r, sink: gcs}]\n", 3, 21, ["'s3' or 'stdout'", "'gcs'"]),
    ("id: a\npipeline: [{name: s, retry: {delays: 1}}]\n", 2, 30, ["did you mean 'delay'?"]),
    ("id: a\npipeline: [{name: s, retry: {max_retries: -1}}]\n", 2, 30, ["greater than or equal to 0", "-1"]),
    ("id: a\npipeline: [{name: s, retry: {max_retries: '1'}}]\n", 2, 30, ["valid integer", "'1'"]),
    ("id: a\npipeline: [{name: s, retry: {backoff: linear}}]\n", 2, 22, ["there is no delay"]),
    ("id: a\npipeline: [{name: s}]\nreliability: {stats: {alfa: 1}}\n", 3, 23, ["did you mean 'alpha'?"]),
    ("id: a\npipeline: [{name: s}]\nreliability: {stats: {alpha: 1.5}}\n", 3, 23, ["less than 1", "1.5"]),
    ("id: a\npipeline: [{name: s}]\nreliability: {stat: {}}\n", 3, 15, ["did you mean 'stats'?"]),
    (
        "id: a\npipeline: [{name: s}]\nreliability: {stats: {tests: [ttest, chi2]}}\n",
        3,
        38,
        ["'chi2'", "'mann_whitney'"],
    ),
    (
        "id: a\npipeline: [{name: s}]\nschedule: {cron: '0 2 * *'}\n",
        3,
        12,
        ["'0 2 * *' is not a cron schedule", "five"],
    ),
    ("id: a\npipeline: [{name: s}]\nschedule: {cron: '0 2 * * *', timezone: Berlin}\n", 3, 31, ["'Berlin'", "IANA"]),
    ("id: a\npipeline: [{name: s}]\nschedule: {cron: '@daily', timezone: ../UTC}\n", 3, 28, ["'../UTC'", "IANA"]),
    ("id: a\npipeline: [{name: s}]\nexecution: {executor: celery_k8s}\n", 3, 13, ["'celery_k8s'", "'multiprocess'"]),
    ("id: a\npipeline: [{name: s}]\ntags: [1]\n", 3, 8, ["tags.0", "string", "given: 1"]),
]


@pytest.mark.parametrize(("text", "line", "column", "parts"), MISTAKES)
def test_a_mistake_is_shown_with_file_line_column_and_what_to_do(
    text: str, line: int, column: int, parts: list[str]
) -> None:
    error = refusal(text)
    shown = str(error)
    assert (error.path, error.line, error.column) == ("experiment.yaml", line, column)
    assert shown.startswith(f"experiment.yaml:{line}:{column}: ")
    assert all(part in shown for part in parts), shown
    assert "function-" not in shown
    assert "Value error" not in shown


@pytest.mark.parametrize(("text", "line", "column", "parts"), MISTAKES)
def test_a_mistake_in_json_is_shown_at_the_same_place_as_in_yaml(
    text: str, line: int, column: int, parts: list[str]
) -> None:
    # Every JSON document with spaces is YAML too: a one-to-one copy must give the same message.
    data = load_anything(text)
    as_json = json.dumps(data, indent=1)
    in_yaml, in_json = refusal(as_json, "a.yaml"), refusal(as_json, "a.json")
    assert (in_json.message, in_json.line, in_json.column) == (in_yaml.message, in_yaml.line, in_yaml.column)
    assert in_json.line is not None


def load_anything(text: str) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    error = refusal("id: a b\npipelines: []\npipeline:\n  - name: s\n    enabled: maybe\n    optoins: {}\nowner: 3\n")
    assert [one.line for one in error.each()] == [1, 2, 5, 6, 7]
    assert str(error).count("\n") == 4
    assert "did you mean 'options'?" in str(error)


def test_the_known_keys_of_the_right_part_of_the_file_are_listed() -> None:
    error = refusal("id: a\npipeline:\n  - name: s\n    zzz: 1\n")
    assert "known: always, cache, enabled, module, name, options, retry, timeout" in error.message


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_refused_with_the_files_that_are_there() -> None:
    write(GOOD, "digits.yaml")
    write("x", "notes.txt")
    with pytest.raises(InvalidExperimentError) as caught:
        load_experiment("digit.yaml")
    assert str(caught.value) == "digit.yaml: there is no such file; its folder holds: digits.yaml"


def test_a_missing_file_in_a_missing_folder_is_refused() -> None:
    with pytest.raises(InvalidExperimentError, match=r"nowhere/a\.yaml: there is no such file$"):
        load_experiment("nowhere/a.yaml")


def test_a_folder_is_refused() -> None:
    with pytest.raises(InvalidExperimentError, match=r"^\.: is a folder; name an experiment file in it$"):
        load_experiment(".")


def test_a_file_that_cannot_be_read_is_refused_with_the_reason() -> None:
    Path("loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(InvalidExperimentError, match=r"^loop\.yaml: cannot be read: Too many levels"):
        load_experiment("loop.yaml")


@pytest.mark.parametrize("path", ["a\x00.yaml", "a" * 5000 + ".yaml", "experiment.yaml/inside.yaml", ""])
def test_a_path_that_no_file_can_have_is_refused(path: str) -> None:
    write(GOOD)
    with pytest.raises(InvalidExperimentError):
        load_experiment(path)


def test_a_file_of_fifty_megabytes_is_refused_without_reading_it() -> None:
    with Path("huge.yaml").open("wb") as stream:
        stream.truncate(50_000_000)
    started = time.process_time()
    with pytest.raises(InvalidExperimentError, match=r"huge\.yaml: is larger than 1,000,000 bytes"):
        load_experiment("huge.yaml")
    assert time.process_time() - started < 0.5


def test_an_endless_device_is_refused() -> None:
    assert Path("/dev/zero").exists()
    with pytest.raises(InvalidExperimentError, match="is larger than"):
        load_experiment("/dev/zero")


@pytest.mark.parametrize("raw", [b"id: \xff\n", b"\x80", "id: ä".encode("latin-1")])
@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_a_file_that_is_not_utf8_is_refused_with_the_byte(raw: bytes, name: str) -> None:
    message = refusal(raw, name).message
    assert "is not UTF-8: byte" in message
    assert message.endswith("; save it as UTF-8")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_utf_16_is_refused_by_its_name(encoding: str, name: str) -> None:
    assert refusal("id: a\n".encode(encoding), name).message == "this file is UTF-16; save it as UTF-8"


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", "nothing"),
        ("# only a comment\n", "nothing"),
        ("---\n", "nothing"),
        ("null\n", "nothing"),
        ("- a\n- b\n", "a list"),
        ("experiment\n", "the single value 'experiment'"),
        ("12\n", "the single value 12"),
        ('"' + "x" * 500 + '"\n', "the single value 'xxx"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_what_it_holds(text: str, holds: str) -> None:
    error = refusal(text)
    assert f"this file holds {holds}" in error.message
    assert "an experiment is a mapping with `id:` and `pipeline:`" in error.message
    assert len(error.message) < 200


def test_a_second_document_is_refused_at_its_line() -> None:
    error = refusal(GOOD + "---\nid: b\n")
    assert "second YAML document" in error.message
    assert error.line == GOOD.count("\n") + 1


# --- YAML -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("id: a\npipeline: [\n", 3, 1),
        ("id: 'a\npipeline: []\n", 3, 1),
        ("id: a\n\tpipeline: []\n", 2, 1),
        ("id: a\npipeline:\n  - name: s\n options: {}\n", 4, 2),
        ("id: a: b\n", 1, 6),
        ("id: @a\n", 1, 5),
        ("id: *nowhere\n", 1, 5),
        ("id: a\n}\n", 2, 1),
    ],
)
def test_bad_yaml_is_refused_at_its_line_and_column(text: str, line: int, column: int) -> None:
    error = refusal(text)
    assert (error.path, error.line, error.column) == ("experiment.yaml", line, column)


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\ufffe"])
def test_a_control_character_in_yaml_is_refused(character: str) -> None:
    assert "is not valid YAML" in refusal(f"id: a{character}\n").message


@pytest.mark.parametrize(
    "payload",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object/new:subprocess.Popen [[true]]",
        "!!binary aGVsbG8=",
        "!!timestamp 2026-01-01",
        "!!set {a, b}",
        "!!str 12",
        "!custom {a: 1}",
        "!<tag:yaml.org,2002:python/none> x",
    ],
)
@pytest.mark.fault("S1")
def test_yaml_tags_are_refused_and_nothing_is_made_of_them(payload: str) -> None:
    error = refusal(f"id: a\npipeline:\n  - name: s\n    options:\n      x: {payload}\n")
    assert "YAML tags are not supported" in error.message
    assert error.line == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("-0.0", -0.0),
        ("12", 12),
        ("-7", -7),
        ("0", 0),
        ("0o17", 15),
        ("0x1F", 31),
        ("9223372036854775807", 2**63 - 1),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'yes'", "yes"),
        ('"010"', "010"),
        ("'2026-01-01'", "2026-01-01"),
        ("y", "y"),
        ("nO", "nO"),
        ("1.2.3", "1.2.3"),
        ("12 apples", "12 apples"),
        ("+", "+"),
        (".", "."),
        ("a:b", "a:b"),
        ("e5", "e5"),
        ("{a: [1, {b: ~}]}", {"a": [1, {"b": None}]}),
        ("|\n        two\n        lines", "two\nlines\n"),
        ('"\\u00e4\\x41"', "äA"),
        ("ünï", "ünï"),
        ("😀", "😀"),
    ],
)
def test_plain_values_are_read_by_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    read = option_of(text)
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        *((word, "boolean in YAML 1.1") for word in ("yes", "No", "ON", "off")),
        ("010", "octal in YAML 1.1"),
        ("-0777", "octal in YAML 1.1"),
        ("2026-01-01", "a date"),
        ("2026-01-01 10:00:00", "a date"),
        ("2026-01-01T10:00:00Z", "a date"),
        ("12:30", "number of seconds"),
        ("190:20:30", "number of seconds"),
        (".nan", "finite"),
        ("-.INF", "finite"),
        ("1e999", "too large"),
        ("1" * 5000, "does not fit 64 bits"),
        ("0x" + "f" * 100_0, "does not fit 64 bits"),
        ("9223372036854775808", "64 bits"),
        ("-9223372036854775808", "64 bits"),
    ],
)
@pytest.mark.fault("YAML that means something else elsewhere")
def test_values_that_mean_something_else_elsewhere_must_be_quoted(text: str, part: str) -> None:
    error = refusal(f"id: a\npipeline:\n  - name: s\n    options:\n      x: {text}\n")
    assert part in error.message
    assert error.line == 5


@pytest.mark.parametrize("text", ["1_000", "-1_0", "0b101", "0x_1F", "-0x1F", "1_000.5", "0o1_7"])
def test_numbers_of_yaml_1_1_are_not_silently_texts(text: str) -> None:
    # PyYAML, and so Dagster, reads each of these as a number.
    import yaml

    read = yaml.safe_load(text)
    try:
        ours = option_of(text)
    except InvalidExperimentError:
        return
    assert ours == read


@pytest.mark.fault("YAML that means something else elsewhere")
def test_a_key_that_stands_twice_is_refused_at_the_second() -> None:
    error = refusal("id: a\npipeline:\n  - name: s\n    options:\n      seed: 1\n      seed: 2\n")
    assert (error.line, error.column) == (6, 7)
    assert "'seed' occurs twice" in error.message


@pytest.mark.parametrize("key", ["[a]", "{a: 1}", "? [a]\n      "])
def test_a_key_that_is_no_text_is_refused(key: str) -> None:
    refusal(f"id: a\npipeline:\n  - name: s\n    options:\n      {key}: 1\n")


@pytest.mark.parametrize("key", ["1", "1.5", "true", "null", "yes", "2026-01-01", "''"])
def test_every_other_key_is_a_text(key: str) -> None:
    loaded = load_experiment(write(f"id: a\npipeline:\n  - name: s\n    options: {{{key}: 1}}\n"))
    assert loaded.pipeline[0].options == {key.strip("'"): 1}


def test_merge_keys_are_refused() -> None:
    error = refusal("id: a\nmetadata: &m {x: 1}\npipeline:\n  - name: s\n    options:\n      <<: *m\n")
    assert "merge keys (<<) are not supported" in error.message
    assert error.line == 6


def test_aliases_are_read_as_copies() -> None:
    loaded = load_experiment(
        write("id: a\npipeline:\n  - {name: s, options: &o {x: {y: [1]}}}\n  - {name: t, options: *o}\n")
    )
    first, second = loaded.pipeline
    assert first.options == second.options == {"x": {"y": [1]}}
    first.options["x"]["y"].append(2)
    assert second.options == {"x": {"y": [1]}}


def test_a_mistake_behind_an_alias_is_shown_where_the_alias_is_used() -> None:
    error = refusal("id: a\npipeline:\n  - {name: s, retry: &r {delay: 1}}\n  - {name: t, enabled: *r}\n")
    assert error.line == 4
    assert "pipeline.1.enabled" in error.message


def test_an_anchor_that_contains_itself_is_refused() -> None:
    assert "that ends before it" in refusal("id: a\nmetadata: &m\n  x: *m\n").message


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
        "a: &a {" + ", ".join(f"k{i}: 0" for i in range(2000)) + "}\nb: [" + ", ".join(["*a"] * 99) + "]\n",
        "metadata:\n  a: &a [1]\n  b: [" + ", ".join(["*a"] * (MAX_ALIASES + 1)) + "]\n",
        "[" * 60_000,
        "{a: " * 60_000,
        "- " * 60_000,
        "? " * 60_000,
        "a: " + "&a " * 10_000,
        "x: [" + "1, " * (MAX_VALUES + 1) + "]\n",
        "x: '" + "a" * (MAX_SCALAR + 1) + "'\n",
        "".join("a: b\n" for _ in range(100_000)),
        "".join(f"k{i}: 0\n" for i in range(70_000)),
        "\n" * 900_000 + "]",
        "#" * 900_000,
        "a: |\n" + " " * 900_000,
        '"' + "\\" * 900_000,
        "&" * 900_000,
        "x: " + "!" * 900_000,
        "%YAML 9.9\n---\na",
        "%TAG ! " + "x" * 100_000 + "\n---\n!a b",
        "'" * 900_000,
        "\t" * 900_000,
        "a:\n" * 100_000,
        "-\n" * 100_000,
        " ".join("abc" for _ in range(200_000)),
        "{" + "a, " * 100_000,
        "[" + "*a, " * 100_000,
        "a: &b c\n" * 2 + "d: *b\n" * 100_000,
    ],
    ids=lambda text: f"{text[:12]!r}, {len(text)}",
)
@pytest.mark.parametrize("name", ["bomb.yaml", "bomb.json"])
@pytest.mark.fault("bombs of YAML and JSON")
def test_a_bomb_is_refused_within_a_second(text: str, name: str) -> None:
    assert len(str(refusal(text, name))) < 1_000


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"id": "a", "metadata": ' + '{"x": ' * 60 + "1" + "}" * 60 + "}",
        "[" + "1," * (MAX_VALUES + 1) + "1]",
        '{"id": ' + "9" * 5000 + "}",
        '{"id": "a", "metadata": {"x": 1e999}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "metadata": {"x": NaN}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "metadata": {"x": -Infinity}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "metadata": {"x": 9223372036854775808}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "metadata": {"x": "\\u0000"}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "metadata": {"x": "\\ud800"}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "metadata": {"\\ud800": 1}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "metadata": {"\\u0000": 1}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "\\ud800": 1, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "\\u001b[2J": 1, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "metadata": {"\\u001b[2J": "\\u0000"}, "pipeline": [{"name": "s"}]}',
        '{"id": "a", "pipeline": [{"name": "s"}], "id": "b"}',
        '{"id": "a", "pipeline": [{"name": "s"}]} trailing',
        "{'id': 'a'}",
        "{",
        "",
        "nul",
    ],
    ids=lambda text: f"{text[:50]!r}, {len(text)}",
)
def test_bad_json_is_refused_with_a_message_that_can_be_printed(text: str) -> None:
    error = refusal(text, "bad.json")
    assert error.path == "bad.json"
    assert all(character.isprintable() for character in error.message), repr(error.message)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [('{\n  "id": "a",\n  "pipeline": [,]\n}', 3, 16), ("{\n'id': 1}", 2, 1), ('{"id": "a"} x', 1, 13), ("", 1, 1)],
)
def test_bad_json_is_refused_at_its_line_and_column(text: str, line: int, column: int) -> None:
    error = refusal(text, "bad.json")
    assert (error.line, error.column) == (line, column)


def test_a_key_that_stands_twice_in_json_is_refused_at_the_second() -> None:
    error = refusal('{\n  "id": "a",\n  "pipeline": [{"name": "s"}],\n  "id": "b"\n}\n', "twice.json")
    assert "'id' occurs twice" in error.message
    assert (error.line, error.column) == (4, 3)


def test_many_keys_in_json_are_refused_within_a_second_when_the_last_stands_twice() -> None:
    keys = ", ".join(f'"k{number}": 0' for number in range(12_000))
    refusal(f'{{"id": "a", {keys}, "k11999": 1}}', "keys.json")


def test_json_indented_with_tabs_shows_mistakes_with_their_line() -> None:
    text = json.dumps({"id": "a", "pipeline": [{"name": "s", "enabled": "maybe"}]}, indent="\t")
    error = refusal(text, "tabs.json")
    assert error.line == 1 + text[: text.index("enabled")].count("\n")


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "a\\/b", "\\u2028", "\\u0007"])
def test_json_escapes_are_read_and_do_not_hide_the_line_of_a_mistake(text: str) -> None:
    document = f'{{"id": "a",\n"description": "{text}",\n"pipeline": [{{"name": "s"}}]}}'
    assert load_experiment(write(document, "a.json")).description == json.loads(f'"{text}"')
    assert refusal(document.replace('"name"', '"nam"'), "b.json").line == 3


def test_the_limits_are_not_crossed_by_a_reasonable_large_file() -> None:
    options = "\n".join(f"      option_{number}: {number}" for number in range(10_000))
    loaded = load_experiment(write(f"id: a\npipeline:\n  - name: s\n    options:\n{options}\n"))
    assert len(loaded.pipeline[0].options) == 10_000


def test_nesting_up_to_the_limit_is_read() -> None:
    depth = MAX_DEPTH - 2
    text = f"id: a\nmetadata: {{x: {'[' * (depth - 1)}{']' * (depth - 1)}}}\npipeline: [{{name: s}}]\n"
    load_experiment(write(text))
    assert len(text) < MAX_BYTES


# --- values given on the command line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("[1, 2]", [1, 2]),
        ("[1,\n2]", [1, 2]),
        ("{a: b, 0: [x]}", {"a": "b", "0": ["x"]}),
        ("", None),
        ("true", True),
        ('"true"', "true"),
        ("'#1'", "#1"),
        ('"a # b"', "a # b"),
    ],
)
def test_a_value_on_the_command_line_is_read_as_in_a_file(text: str, value: Any) -> None:
    assert parse_scalar(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "#ff0000",
        "task #3",
        "a: b: c",
        "- a",
        "--- a\n--- b",
        "!!str a",
        "*.csv",
        "&a",
        "| x",
        " lead",
        "it's",
        "@x",
    ],
)
def test_a_text_on_the_command_line_is_taken_as_it_is(text: str) -> None:
    assert parse_scalar(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1", "begins like a list, and is not valid YAML"),
        ("[1] # one", "begins like a list"),
        ("[a, #b\n c]", "begins like a list"),
        ("{color: #ff0000}", "begins like a mapping"),
        ("[INST] hello", "put quotes around a text"),
        ("[1], [2]", "begins like a list"),
        ('"a" # b', "begins like a quoted text"),
        ('"a": b', "begins like a quoted text"),
        ("'tis", "begins like a quoted text"),
        ("[*a]", "has no anchor"),
        ("yes", "a boolean in YAML 1.1"),
        ("[yes]", "a boolean in YAML 1.1"),
    ],
)
def test_a_value_on_the_command_line_that_is_not_complete_or_not_clear_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidExperimentError, match=re.escape(reason)):
        parse_scalar(text)


# --- properties -----------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(
        ["yes", "no", "010", "1e3", "~", "null", "2026-01-01", "12:30", "<<", "=", "0x1", "!a", "&a", "*a"]
    )
)
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
options = st.dictionaries(texts, data, max_size=4)
retries = st.fixed_dictionaries(
    {},
    optional={
        "max_retries": st.integers(0, 1000),
        "delay": st.floats(0, 86_400),
        "backoff": st.sampled_from(["linear", "exponential", None]),
    },
).filter(lambda retry: retry.get("delay") is not None or retry.get("backoff") is None)
stage_definitions = st.fixed_dictionaries(
    {"name": names},
    optional={
        "module": st.none() | texts,
        "options": st.none() | options,
        "enabled": st.booleans(),
        "retry": st.none() | retries,
    },
)
output_specs = st.fixed_dictionaries(
    {"name": names},
    optional={
        "formats": st.lists(st.sampled_from(["csv", "html", "json", "jsonl", "latex", "markdown"]), max_size=3),
        "sink": st.sampled_from(["file", "postgres", "s3", "stdout"]),
        "options": st.none() | options,
    },
)
stats = st.fixed_dictionaries(
    {},
    optional={
        "tests": st.none() | st.lists(st.sampled_from(["ttest", "kruskal", "mannwhitney", "wilcoxon"]), max_size=3),
        "alpha": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
        "effect_size_type": st.none() | st.sampled_from(["cohens_d", "eta_squared"]),
        "multiple_testing_correction": st.none() | st.sampled_from(["holm", "fdr", "benjamini_hochberg", "bonferroni"]),
        "bootstrap_iterations": st.none() | st.integers(1, 10**6),
        "options": st.none() | options,
    },
)
experiments = st.fixed_dictionaries(
    {"id": names, "pipeline": st.lists(stage_definitions, min_size=1, max_size=4, unique_by=lambda one: one["name"])},
    optional={
        "description": st.none() | texts,
        "owner": st.none() | texts,
        "tags": st.none() | st.lists(texts, max_size=3),
        "metadata": st.none() | options,
        "outputs": st.none() | st.lists(output_specs, max_size=3, unique_by=lambda one: one["name"]),
        "reliability": st.none() | st.fixed_dictionaries({}, optional={"stats": st.none() | stats, "hedging": data}),
        "schedule": st.none()
        | st.fixed_dictionaries({"cron": st.sampled_from(["@daily", "0 2 * * 1-5", "*/5 * * * *"])}),
        "execution": st.none() | st.fixed_dictionaries({}, optional={"max_concurrent": st.integers(1, 9)}),
        "backend": data,
        "training_config": data,
        "created_at": data,
    },
)
many = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@many
@given(experiments)
def test_what_is_written_as_json_is_read_back_equal(tree: dict[str, Any]) -> None:
    experiment = Experiment.model_validate(tree)
    read = load_experiment(write(experiment.to_json(), "again.json"))
    assert read == experiment
    assert read.to_json() == experiment.to_json()
    assert json.loads(experiment.to_json()) == experiment.to_dict()


@many
@given(experiments, st.sampled_from([None, 2]))
def test_the_json_of_an_experiment_read_as_yaml_is_the_same_experiment(
    tree: dict[str, Any], indent: int | None
) -> None:
    experiment = Experiment.model_validate(tree)
    text = experiment.to_json(indent=indent)
    # Characters that JSON takes and YAML 1.2 asks to be escaped.
    escaped = "".join(c if c.isprintable() or c in "\n" else json.dumps(c)[1:-1] for c in text)
    if any("\ud800" <= chr(int(part[:4], 16)) <= "\udfff" for part in escaped.split("\\u")[1:]):
        return  # YAML has no surrogate pairs
    assert load_experiment(write(escaped, "again.yaml")) == experiment


@many
@given(experiments)
def test_what_ruamel_writes_as_yaml_is_read_back_equal_or_refused_but_never_changed(tree: dict[str, Any]) -> None:
    import io

    from ruamel.yaml import YAML

    stream = io.StringIO()
    writer = YAML(typ="safe")
    writer.allow_unicode = True
    writer.dump(tree, stream)
    try:
        read = load_experiment(write(stream.getvalue(), "again.yaml"))
    except InvalidExperimentError:
        return  # plain words such as `yes`, which have to be quoted
    assert read == Experiment.model_validate(tree)


def loads_or_refuses(raw: bytes, name: str) -> None:
    file = write(raw, name)
    started = time.process_time()
    refused = None
    try:
        load_experiment(file)
    except InvalidExperimentError as error:
        refused = error
    if refused is not None:
        str(refused).encode()
        assert refused.path == name
        assert refused.line is None or refused.line >= 1
        assert refused.column is None or refused.column >= 1
    assert time.process_time() - started < 1.0


@settings(max_examples=100)
@given(st.binary(max_size=300), st.sampled_from(["a.yaml", "a.json"]))
@example(b"\x00", "a.yaml")
@example(b"? : ? :", "a.yaml")
@example(b"&a : *a", "a.yaml")
@example(b"- &a\n- *a", "a.yaml")
@example(b"'\\", "a.yaml")
@example(b"%", "a.yaml")
@example(b"--- >9\n", "a.yaml")
@example(b"! 12", "a.yaml")
@example(b"{? a, ? b: c}", "a.yaml")
@pytest.mark.fault("S1")
def test_any_bytes_are_loaded_or_refused(raw: bytes, name: str) -> None:
    loads_or_refuses(raw, name)


YAML_PIECES = [
    *"[]{}:,-?&*!|>'\"%@`#~ \n\t\\", "id", "pipeline", "name: s", "- ", "&a", "*a", "<<: ", "!!str", "---\n", "...\n",
    "\n  ", "\n    ", "yes", ".inf", "1e9", "0o9", "\u2028", "\x85", "\ufeff", "ä", "😀", '"\\ud800"', '"\\u0000"',
]  # fmt: skip
yaml_pieces = st.sampled_from(YAML_PIECES)


@settings(max_examples=120)
@given(st.lists(yaml_pieces, max_size=30).map("".join), st.sampled_from(["a.yaml", "a.json"]))
@pytest.mark.fault("S1")
def test_any_heap_of_yaml_pieces_is_loaded_or_refused(text: str, name: str) -> None:
    loads_or_refuses(text.encode(), name)


@settings(max_examples=120)
@given(st.data(), st.sampled_from(["a.yaml", "a.json"]))
def test_a_good_file_with_a_few_changes_is_loaded_or_refused(changes: st.DataObject, name: str) -> None:
    text = GOOD if name == "a.yaml" else json.dumps(load_anything(GOOD), indent=2)
    for _ in range(changes.draw(st.integers(1, 4))):
        at = changes.draw(st.integers(0, len(text)))
        cut = changes.draw(st.integers(0, 6))
        text = text[:at] + changes.draw(yaml_pieces | st.text(max_size=3)) + text[at + cut :]
    loads_or_refuses(text.encode("utf-8", "surrogatepass"), name)


@settings(max_examples=100)
@given(data)
def test_any_json_data_is_an_experiment_or_refused(tree: Any) -> None:
    loads_or_refuses(json.dumps(tree).encode(), "a.json")


@settings(max_examples=100)
@given(st.data())
def test_an_experiment_with_one_value_replaced_is_loaded_or_refused(changes: st.DataObject) -> None:
    tree = load_anything(GOOD)
    node: Any = tree
    while isinstance(node, dict | list) and node:
        step = changes.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if changes.draw(st.booleans()) or not isinstance(node[step], dict | list):
            node[step] = changes.draw(data)
            break
        node = node[step]
    loads_or_refuses(json.dumps(tree).encode(), "a.json")


def test_every_refusal_is_a_crucible_error() -> None:
    assert issubclass(InvalidExperimentError, CrucibleError)


@pytest.mark.fault("S2")
def test_loading_imports_no_module_that_the_file_names() -> None:
    Path("dangerous.py").write_text("import pathlib; pathlib.Path('imported').touch()\n")
    load_experiment(write("id: a\npipeline:\n  - {name: s, module: 'dangerous:Stage'}\n"))
    assert "dangerous" not in sys.modules
    assert not Path("imported").exists()
