"""A whole comparison: `compare`, the JSON that it writes and reads, and this package used without the others."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crucible_bench import (
    CannotTestError,
    Comparison,
    Declaration,
    PlannedPower,
    UnreadableComparisonError,
    analyse,
    compare,
    pairwise_tests,
)
from crucible_bench.comparison import VERSION, comparison_numbers, looks_like_comparison
from crucible_bench.finding import finding
from crucible_bench.power.planned_power import power_as_planned

NEW = [0.84, 0.81, 0.86, 0.83, 0.85]
OLD = [0.79, 0.80, 0.83, 0.78, 0.81]
OTHER = [0.90, 0.88, 0.91, 0.87, 0.93]
TWO = {"new": NEW, "old": OLD}
THREE = {**TWO, "other": OTHER}
YES_AND_NO = {"always": [True] * 6, "never": [False] * 6, "often": [True] * 4 + [False] * 2}

DECLARED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two groups": (TWO, {}),
    "one-sided": (TWO, {"alternative": "greater"}),
    "several tests": (TWO, {"tests": ["ttest", "mann_whitney"]}),
    "several tests, not adjusted": (TWO, {"tests": ["ttest", "mann_whitney"], "correction": "none"}),
    "verdicts": (TWO, {"design": "paired", "margin": 0.01}),
    "all pairs": (THREE, {"compare": "all_pairs", "margin": 0.01}),
    "against a baseline": (THREE, {"compare": "baseline", "baseline": "old", "alternative": "greater"}),
    "folds": (THREE, {"design": "resampled", "folds": 5}),
    "clusters": (TWO, {"design": "clustered", "clusters": list("aabbc")}),
    "sweep": (THREE, {"study": "sweep"}),
    "sweep of clusters": (THREE, {"study": "sweep", "design": "clustered", "clusters": list("aabbc")}),
    "ranking": (THREE, {"study": "multiple_datasets", "design": "paired", "higher_is_better": False}),
    "one sample": ({"new": NEW}, {"design": "one_sample", "reference": 0.8}),
    "booleans": (YES_AND_NO, {}),
    "infinite ratio": (
        {name: YES_AND_NO[name] for name in ("always", "never")},
        {"tests": ["two_proportions"], "effect_size": "risk_ratio"},
    ),
    "infinite ratios of pairs": (
        YES_AND_NO,
        {"tests": ["two_proportions"], "effect_size": "risk_ratio", "compare": "all_pairs"},
    ),
    "a single value": ({"one": [1.0], "more": [1.0, 2.0, 4.0]}, {"tests": ["mann_whitney"]}),
    "sampled values": ({"a": [float(n % 97) for n in range(1500)], "b": [float(n % 89) for n in range(20)]}, {}),
}


@pytest.fixture(params=DECLARED)
def comparison(request: pytest.FixtureRequest) -> Comparison:
    groups, declared = DECLARED[request.param]
    return compare(groups, **declared)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_a_comparison_says_what_was_found_and_has_its_verdicts_and_tests() -> None:
    result = compare(TWO, design="paired", margin=0.01, measure="accuracy")
    assert result.sentence == finding(result)
    assert result.sentence.startswith("new is higher than old in accuracy: mean difference (new - old) 0.03600")
    assert [verdict.verdict for verdict in result.verdicts] == ["better"]
    assert [test.test for test in result.tests] == ["paired_ttest"]
    assert result.comparisons is None


def test_compare_takes_every_part_of_a_declaration_with_its_default_and_explains_it() -> None:
    parameters = inspect.signature(compare).parameters
    declared = {field.name: field.default for field in dataclasses.fields(Declaration)}
    taken = {
        name: one.default for name, one in parameters.items() if name not in {"groups", "clusters", "measure", "strata"}
    }
    assert taken == declared
    rows = set(re.findall(r"^    \| (\w+) \|", inspect.getdoc(compare) and str(compare.__doc__), re.MULTILINE))
    assert rows - {"keyword"} == set(parameters) - {"groups"}


def test_compare_is_analyse_with_a_declaration_and_understands_other_spellings_of_tests() -> None:
    assert compare(TWO, tests="mannwhitney") == analyse(TWO, Declaration(tests=("mann_whitney",)))
    assert compare(TWO, tests=["ttest", "ttest"]) == compare(TWO, tests="ttest")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"design": "pared"}, "design: 'pared' is not known; known: clustered, .*; did you mean 'paired'?"),
        ({"tests": "t-test"}, "tests: 't-test' is not known; known: auto, anova, .*did you mean 'ttest'"),
        ({"correction": None}, "correction: None is not known"),
        ({"design": "pared", "study": "swep"}, "design: 'pared' .*; study: 'swep' "),
        ({"design": "one_sample", "margin": 1.0}, "reference: one sample needs the number .*; margin: verdicts "),
        ({"alpha": 2.0}, "alpha must lie between 0 and 1"),
        ({"margin": -1.0}, "the margin must be a positive number"),
        ({"resamples": 3, "tests": "bootstrap"}, "resamples must be at least 100"),
    ],
)
def test_a_declaration_that_cannot_be_is_a_value_error_that_lists_every_problem(
    declared: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        compare(TWO, **declared)


def test_a_keyword_that_there_is_not_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="desing"):
        compare(TWO, desing="paired")  # type: ignore[call-arg]


def test_every_choice_is_among_the_decisions_once_with_those_of_the_parts() -> None:
    family = compare(THREE, compare="all_pairs", margin=0.01)
    about = [one for one, _ in family.decisions]
    assert {"test", "welch_anova", "family", "margin"} <= set(about)
    assert family.comparisons is not None
    for choice in (*family.tests[0].decisions, *family.comparisons.decisions, *family.verdicts[0].decisions):
        assert [one for _, one in family.decisions].count(choice) == 1


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_a_comparison_is_read_back_from_its_json_value_for_value(comparison: Comparison) -> None:
    assert Comparison.from_json(comparison.to_json()) == comparison
    assert Comparison.from_dict(comparison.to_dict()) == comparison
    assert Comparison.from_dict(comparison.to_dict()).sentence == comparison.sentence
    assert json.loads(comparison.to_json()) == comparison.to_dict()
    assert pickle.loads(pickle.dumps(comparison)) == comparison


def test_the_json_says_what_it_is(comparison: Comparison) -> None:
    data = comparison.to_dict()
    assert (data["kind"], data["version"]) == ("comparison", VERSION)
    assert looks_like_comparison(data)
    assert set(data["tests"]) == {test.test for test in comparison.tests}
    assert data["family_size"] == len(comparison.tests)
    for test in data["tests"].values():
        p = test.get("p_adjusted", test["p_value"])
        assert test["significant"] == (p <= data["alpha"])


def test_what_is_added_to_a_comparison_is_read_back_too() -> None:
    planned = power_as_planned(Declaration(), 2, 10, 0.5)
    assert isinstance(planned, PlannedPower)
    more = dataclasses.replace(compare(TWO, measure="accuracy"), planned=planned, dropped=("group 'new', position 3",))
    assert Comparison.from_json(more.to_json()) == more


def test_an_infinite_ratio_is_null_in_json_and_infinite_in_the_comparison() -> None:
    groups, declared = DECLARED["infinite ratio"]
    result = compare(groups, **declared)
    assert result.tests[0].effect_size == math.inf
    assert result.to_dict()["tests"]["two_proportions"]["effect_size"] is None
    groups, declared = DECLARED["infinite ratios of pairs"]
    family = compare(groups, **declared).comparisons
    assert family is not None
    assert math.inf in [pair.effect_size for pair in family.comparisons]
    numbers = dict(comparison_numbers(compare(groups, **declared)))
    assert all(map(math.isfinite, numbers.values()))
    assert "always_vs_never.effect_size" not in numbers


def without_version(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON as it was written before it had a version."""
    for name in ("kind", "version", "choices"):
        del data[name]
    parts = [*data["tests"].values(), *data["verdicts"]]
    parts += [data[name] for name in ("comparisons", "best", "ranking") if data[name]]
    for part in parts:
        part.pop("decisions")
    for part in (*data["tests"].values(), data["comparisons"] or {}, data["best"] or {}):
        part.pop("alpha", None)
    if data["ranking"]:
        del data["ranking"]["higher_is_better"]
    return data


def without_decisions(comparison: Comparison) -> Comparison:
    def bare(part: Any) -> Any:
        return part and dataclasses.replace(part, decisions=())

    ranking = bare(comparison.ranking)
    return dataclasses.replace(
        comparison,
        choices=(),
        tests=tuple(map(bare, comparison.tests)),
        comparisons=bare(comparison.comparisons),
        verdicts=tuple(map(bare, comparison.verdicts)),
        best=bare(comparison.best),
        ranking=ranking and dataclasses.replace(ranking, family=bare(ranking.family)),
    )


def test_a_comparison_from_before_there_were_versions_is_read(comparison: Comparison) -> None:
    old = without_version(comparison.to_dict())
    assert looks_like_comparison(old)
    assert Comparison.from_dict(old) == without_decisions(comparison)
    for verdict in old["verdicts"]:
        del verdict["alpha"]
    read = Comparison.from_dict(old)
    assert [one.alpha for one in read.verdicts] == [one.alpha for one in comparison.verdicts]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 3}, r"comparison of a newer version \(3; this version of crucible reads up to 2\)\. Upgrade"),
        ({"version": "x"}, "cannot be read: its version is 'x'"),
        ({"version": None}, "cannot be read: its version is None"),
        ({"kind": "image"}, "not a comparison: its kind is 'image'"),
        ({"alpha": "0.05"}, "cannot be read: alpha: should be a valid number"),
        ({"alpha": math.nan}, "cannot be read: alpha: should be a finite number"),
        ({"groups": {"a": {}}}, r"cannot be read: groups\.a\.n: Field required.*and 1 more"),
        ({"tests": {}}, "nothing was compared"),
        ({"tests": {"ttest": 3}}, "tests: not a mapping of name to result"),
        ({"tests": None}, "tests: not a mapping of name to result"),
        ({"verdicts": [3]}, "verdicts.0: should be"),
        ({"comparisons": [3], "ranking": 5}, "cannot be read: comparisons: should be"),
    ],
)
def test_what_cannot_be_read_says_why(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UnreadableComparisonError, match=said):
        Comparison.from_dict({**compare(TWO).to_dict(), **changed})


def test_either_all_p_values_are_adjusted_by_a_named_correction_or_none() -> None:
    data = compare(TWO, tests=["ttest", "mann_whitney"]).to_dict()
    with pytest.raises(UnreadableComparisonError, match="either all p-values are adjusted"):
        Comparison.from_dict({**data, "correction": None})
    del data["tests"]["ttest"]["p_adjusted"]
    with pytest.raises(UnreadableComparisonError, match="either all p-values are adjusted"):
        Comparison.from_dict(data)


@pytest.mark.parametrize(("text", "said"), [("[1]", "not a JSON object"), ("{", "it is not JSON")])
def test_text_that_is_not_a_comparison_is_refused(text: str, said: str) -> None:
    with pytest.raises(UnreadableComparisonError, match=said):
        Comparison.from_json(text)


@pytest.mark.parametrize(
    "value", [None, 3, [], {}, {"kind": 3}, {"kind": "image", "alpha": 1, "groups": {}, "tests": {}}, {"alpha": 1}]
)
def test_other_values_do_not_look_like_a_comparison(value: object) -> None:
    assert not looks_like_comparison(value)


def test_pickles_of_a_pair_under_its_old_name_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("crucible_core.stats")]:
        monkeypatch.delitem(sys.modules, name)  # the warning comes when it is imported
    pair = pairwise_tests("ttest", THREE).comparisons[0]
    old = pickle.dumps(pair, 0).replace(
        b"crucible_bench.compared\nPairResult", b"crucible_core.stats.families\nComparison"
    )
    with pytest.warns(DeprecationWarning, match="crucible_core"):
        assert pickle.loads(old) == pair


# --- alone ------------------------------------------------------------------------------------------------------------

ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"crucible_core", "crucible_dagster", "dagster", "ruamel", "click", "rich"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def alone(program: str) -> str:
    """What the program prints where neither the other packages nor what only they need can be imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE + program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_package_works_where_the_others_cannot_be_imported() -> None:
    program = f"""
import crucible_bench
for name in crucible_bench.__all__:
    getattr(crucible_bench, name)
import importlib, pkgutil
for module in pkgutil.walk_packages(crucible_bench.__path__, "crucible_bench."):
    importlib.import_module(module.name)
result = crucible_bench.compare({TWO!r}, design="paired", margin=0.01)
assert crucible_bench.Comparison.from_json(result.to_json()) == result
print(result.sentence)
"""
    assert alone(program).strip() == compare(TWO, design="paired", margin=0.01).sentence


LIGHT = ("compared", "comparison", "declaration", "errors", "finding", "numbers", "plots", "vocabulary")


@pytest.mark.slow
def test_what_reads_comparisons_loads_neither_numpy_nor_scipy() -> None:
    data = compare(THREE, compare="all_pairs", margin=0.01)
    program = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module(f"crucible_bench.{{name}}")
from crucible_bench import Comparison
assert Comparison.from_json({data.to_json()!r}).sentence == {data.sentence!r}
print(*({{"numpy", "scipy"}} & set(sys.modules)))
"""
    assert alone(program).strip() == ""


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_each_program_of_the_page_runs_without_the_other_packages(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = alone(PROGRAMS[number])
    for said in re.findall(r"print\(.*\)  # (better|ttest is for the design independent)", PROGRAMS[number]):
        assert said in printed


def test_the_page_explains_every_keyword_of_compare() -> None:
    explained = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in PAGE.splitlines() if "|" in line)))
    assert set(inspect.signature(compare).parameters) - {"groups"} <= explained


def test_a_refusal_is_a_value_error_with_the_test_and_the_reason() -> None:
    with pytest.raises(CannotTestError) as refused:
        compare(TWO, design="paired", tests=("ttest",))
    assert (refused.value.test, isinstance(refused.value, ValueError)) == ("ttest", True)
    assert "would ignore the pairing" in refused.value.reason


def test_a_comparison_of_version_1_is_read() -> None:
    """It had neither what could not be tested, nor notes of pairs and sweeps."""
    many = {**TWO, "c": [0.5, 0.6, 0.55, 0.7, 0.65]}
    for result in (compare(many, compare="all_pairs"), compare(many, study="sweep")):
        data = {**result.to_dict(), "version": 1}
        del data["untested"]
        if data["comparisons"] is not None:
            del data["comparisons"]["untested"]
            for pair in data["comparisons"]["comparisons"]:
                del pair["note"]
        if data["best"] is not None:
            del data["best"]["notes"]
        assert Comparison.from_dict(data) == result
