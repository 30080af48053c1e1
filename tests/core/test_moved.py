"""What was stored, or imported, under the names of before the packages were parted."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path

import pytest
from upath import UPath

import crucible_core
import crucible_dagster
from crucible_bench import CannotTestError, EffectSize, GroupSummary, MarginResult, PowerAnalysis, TestResult
from crucible_bench.result import plain_json
from crucible_core import GateResult, InvalidOptionsError, StageFailedError
from crucible_core.metrics import comparisons
from crucible_dagster.store import ContextStore

HERE = Path(__file__).parent.parent
MOVED = [Path(package.__file__).parent / "moved" for package in (crucible_core, crucible_dagster)]
RUN, FAILURE = (f"00000000-0000-4000-8000-0000000000{number}" for number in (11, 12))
RESULTS = {
    "effect": EffectSize,
    "margin": MarginResult,
    "power": PowerAnalysis,
    "summary": GroupSummary,
    "test_result": TestResult,
}


@pytest.fixture
def store() -> ContextStore:
    return ContextStore(UPath(HERE / "stores" / "one_package"))


@pytest.mark.filterwarnings("ignore:crucible_core:DeprecationWarning")
def test_a_context_stored_before_the_packages_were_parted_is_read_value_for_value(store: ContextStore) -> None:
    context = store.load(RUN, "bench")
    kept = dict(context.assigns)
    # The values as they were stored: later versions have other methods for some of them.
    stored = json.loads((HERE / "stores" / "one_package_values.json").read_text(encoding="utf-8"))
    for name, kind in RESULTS.items():
        assert type(kept[name]) is kind
        assert plain_json(kept[name]) == stored[name]
    assert kept["picture"].svg.startswith("<svg")
    assert kept["section"].title == "Numbers"
    assert kept["mapping"] == {"a": 1}
    assert kept["records"] == [1, 2]
    assert [event.kind for event in kept["trace"]] == ["decision", "stage_succeeded"]
    assert kept["experiment"] == context.experiment
    assert kept["gate"] == GateResult(
        gate="g", status="passed", severity="error", blocking=False, sentence="it holds", numbers={"value": 1.0}
    )
    assert (type(kept["error"]), kept["error"].test, kept["error"].reason) == (
        CannotTestError,
        "ttest",
        "too few values",
    )
    assert isinstance(kept["mistake"], InvalidOptionsError)
    assert "kind" not in context.metrics["bench"]
    bench = comparisons(context)["bench"]
    assert plain_json(bench.tests[0]) == stored["test_result"] | {"decisions": []}  # not in JSON without a version
    assert bench.sentence == (
        "old and new could not be told apart: difference of means (old - new) −1.25, 95% CI [−3.652, 1.152], Welch's "
        "t-test, two-sided, t(10.000) = −1.159, p = 0.273, Hedges' g = −0.6176 [−1.822, 0.5142], n = 6 per group."
    )
    assert list(context.outputs) == [{"item": 1, "score": 0.5}, {"item": 2, "score": 0.75}]
    assert context.completed_stages == ("validate", "keep", "bench")


@pytest.mark.filterwarnings("ignore:crucible_core:DeprecationWarning")
def test_a_failure_stored_before_the_packages_were_parted_is_read(store: ContextStore) -> None:
    failure = store.load_failure(FAILURE, "fail")
    assert failure is not None
    error = failure.to_error()
    assert isinstance(error, StageFailedError)
    assert error.stage == "fail"
    assert isinstance(error.__cause__, CannotTestError)
    assert error.__cause__.test == "ttest"


OLD_NAMES = sorted(
    ".".join([folder.parent.name, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__")
    for folder in MOVED
    for path in folder.rglob("*.py")
    if path != folder / "__init__.py"
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name.startswith("crucible_dagster") else name for name in OLD_NAMES],
)
def test_a_module_that_moved_is_found_by_its_old_name_with_a_warning_that_has_the_new_one(name: str) -> None:
    parent = name.rpartition(".")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(parent)
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=rf"^{name} is now crucible_\w+(\.\w+)*; the old name goes"):
        module = importlib.import_module(name)
    if module.__name__ != name:
        assert sys.modules[module.__name__] is module


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("crucible_core.errors", "StageFailedError"),
        ("crucible_core.errors", "GateFailedError"),
        ("crucible_core.errors", "RunInterrupted"),
        ("crucible_core.gates", "GateResult"),
        ("crucible_core.gates", "NoRegression"),
        ("crucible_core.stats", "run_test"),
    ],
)
def test_a_name_that_moved_is_found_in_its_old_module(module: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = getattr(importlib.import_module(module), name)
    assert found.__name__ == name
    assert found.__module__ != module
