"""The recipe for ensembles: its votes are counted anew by hand, and its costs and latencies are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from crucible_core import Context, load_experiment, run_experiment

FILE = Path(__file__).parents[2] / "examples" / "ensemble" / "ensemble.yaml"
VOTES = ["majority", "weighted", "best_confidence"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Context:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path_factory.mktemp("reports")))
        return run_experiment(load_experiment(FILE))


@pytest.fixture(scope="module")
def by_hand() -> tuple[dict[str, list[bool]], str]:
    """Whether each way of answering is right about each image, and which model is the best; without the recipe."""
    images, labels = load_digits(return_X_y=True)
    few, rest, labels_of_few, expected = train_test_split(
        images / 16, labels, train_size=800, stratify=labels, random_state=0
    )
    rows, columns = np.arange(64) // 8, np.arange(64) % 8
    chances, accuracies = [], []
    for seen in (rows < 5, rows > 2, columns < 5, columns > 2):
        model = LogisticRegression(max_iter=1000).fit(few[:500, seen], labels_of_few[:500])
        accuracies.append(model.score(few[500:, seen], labels_of_few[500:]))
        chances.append(model.predict_proba(rest[:, seen]))
    best = int(np.argmax(accuracies))
    said, sure = np.argmax(chances, axis=2), np.max(chances, axis=2)  # of shape (models, images)
    confidence = np.stack([np.where(said == digit, sure, 0).sum(axis=0) for digit in range(10)])
    votes = np.stack([(said == digit).sum(axis=0) for digit in range(10)])
    arms = {
        "majority": np.argmax(votes + confidence / 100, axis=0),
        "weighted": np.argmax(confidence, axis=0),
        "best_confidence": said[np.argmax(sure, axis=0), np.arange(len(expected))],
        "best_model": said[best],
    }
    return {arm: (digits == expected).tolist() for arm, digits in arms.items()}, ["top", "bottom", "left", "right"][
        best
    ]


def test_every_vote_is_what_the_models_say(ensemble: Context, by_hand: tuple[dict[str, list[bool]], str]) -> None:
    expected, best = by_hand
    assert ensemble.assigns["best"] == best
    assert len(expected["majority"]) == 997
    for arm, right in expected.items():
        assert [output["right"] for output in ensemble.outputs if output["arm"] == arm] == right


def test_every_vote_is_compared_with_the_best_model_image_by_image(
    ensemble: Context, by_hand: tuple[dict[str, list[bool]], str]
) -> None:
    right = {arm: np.array(values) for arm, values in by_hand[0].items()}
    pairs = ensemble.metrics["bench"]["comparisons"]["comparisons"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [(vote, "best_model") for vote in VOTES]
    for pair in pairs:
        won = int((right[pair["first"]] & ~right["best_model"]).sum())
        lost = int((~right[pair["first"]] & right["best_model"]).sum())
        # The mid-p-value of McNemar's test (Fagerland, Lydersen & Laake 2013).
        smaller = stats.binom(won + lost, 0.5)
        p = 2 * smaller.cdf(min(won, lost)) - smaller.pmf(min(won, lost))
        assert pair["p_value"] == pytest.approx(p)
        assert pair["estimate"] == pytest.approx((won - lost) / 997)
    assert [gate.status for gate in ensemble.trace.gates] == ["passed", "passed"]
    page = FILE.with_name("README.md").read_text("utf-8")
    low, high = pairs[0]["confidence_interval"]
    shares = [100 * float(right[arm].mean()) for arm in ("majority", "best_model")]
    assert "{:.1f} % of 997 images and the best model in {:.1f} %".format(*shares) in page
    assert f"{low:.3f} to {high:.3f}".replace("-", "−") in page


def test_cost_and_latency_of_each_model_are_metrics(ensemble: Context) -> None:
    assert ensemble.metrics["cost_per_item"] == {"best_model": 0.1, "vote": 0.4}
    latency = ensemble.metrics["latency"]
    assert set(latency) == {"top", "bottom", "left", "right"}
    assert all(0 < one["median_ms"] <= one["p95_ms"] < 10_000 for one in latency.values())
