"""The recipe for fairness: its rates are those of a table, and its boolean gate says what it found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crucible_core import (
    Context,
    InvalidExperimentError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
)

FILE = Path(__file__).parents[2] / "examples" / "fairness" / "fairness.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[None, "unaware"])
def fairness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A run of the file, and one of its variant."""
    experiment = load_experiment(FILE)
    if request.param is not None:
        experiment = experiment.with_variant(request.param, builtin_registry())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path_factory.mktemp("reports")))
        return run_experiment(experiment)


def is_unaware(ctx: Context) -> bool:
    return ctx.experiment.variant == "unaware"


def test_the_rates_are_those_of_each_sex_s_confusion_matrix(fairness: Context) -> None:
    patients = load_diabetes(scaled=False)
    actual, sex = patients.target > 140, patients.data[:, 1]
    told = np.delete(patients.data, 1, axis=1) if is_unaware(fairness) else patients.data
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    predicted = cross_val_predict(make_pipeline(StandardScaler(), LogisticRegression()), told, actual, cv=folds)
    assert fairness.metrics["accuracy"] == (predicted == actual).mean()
    rates: dict[str, list[float]] = {"demographic_parity": [], "true_positive_rate": [], "false_positive_rate": []}
    for group in (1, 2):
        (tn, fp), (fn, tp) = confusion_matrix(actual[sex == group], predicted[sex == group])
        rates["demographic_parity"].append((tp + fp) / (tp + fp + tn + fn))
        rates["true_positive_rate"].append(tp / (tp + fn))
        rates["false_positive_rate"].append(fp / (fp + tn))
    for rate, (one, other) in rates.items():
        assert fairness.metrics["difference"][rate] == pytest.approx(abs(one - other))
        compared = fairness.metrics[rate]["tests"]["two_proportions"]
        assert (compared["groups"], compared["estimate"]) == (["sex 1", "sex 2"], pytest.approx(one - other))
    assert Counter(output["sex"] for output in fairness.outputs) == {"sex 1": 235, "sex 2": 207}


def test_the_gate_on_the_boolean_reads_as_a_sentence(fairness: Context) -> None:
    fair, shown = fairness.trace.gates
    expected = ("failed", "fair is false, not true") if is_unaware(fairness) else ("passed", "fair is true")
    assert (fair.status, fair.sentence) == expected
    assert fairness.metrics["fair"] is not is_unaware(fairness)
    assert shown.status == "failed"  # so few patients do not rule out a difference that matters
    html = Path(fairness.get_artifact("fairness.html")).read_text("utf-8")
    assert expected[1] in html


def test_the_page_has_the_numbers_of_the_run(fairness: Context) -> None:
    page = FILE.with_name("README.md").read_text("utf-8")
    column = 2 + is_unaware(fairness)
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| ")]
    cells = {row[1]: row[column] for row in rows if len(row) > column}
    assert cells["accuracy"] == f"{fairness.metrics['accuracy']:.3f}"
    said = {
        "predicted to progress fast": "demographic_parity",
        "of those who do": "true_positive_rate",
        "of those who do not": "false_positive_rate",
    }
    for words, rate in said.items():
        test = fairness.metrics[rate]["tests"]["two_proportions"]
        numbers = (f"{number:.2f}".replace("-", "−") for number in (test["estimate"], *test["confidence_interval"]))
        assert cells[words] == "{} ({} to {})".format(*numbers)


def test_a_rate_that_there_is_not_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "fairness_stages.py").symlink_to(FILE.with_name("fairness_stages.py"))
    written = FILE.read_text("utf-8").replace("[demographic_parity, true", "[demographic, true")
    (tmp_path / "fairness.yaml").write_text(written, "utf-8")
    with pytest.raises(InvalidExperimentError, match=r"fairness\.yaml:\d+:\d+: reliability\.fairness .*metrics\.0"):
        plan_experiment(load_experiment(tmp_path / "fairness.yaml"), builtin_registry())
