"""The examples are run as a user runs them, and their results compared with those of other libraries."""

import heapq
import inspect
import math
from collections import Counter
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from statsmodels.regression.linear_model import OLS
from threadpoolctl import threadpool_limits

from crucible_core import (
    Context,
    InvalidOptionsError,
    builtin_registry,
    load_experiment,
    plan_experiment,
    run_experiment,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "digits" / "digits.yaml"
RETRIEVAL = EXAMPLES / "retrieval" / "retrieval.yaml"


def run(file: Path, reports: Path) -> Context:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUCIBLE_OUTPUT_ROOT", str(reports))
        return run_experiment(load_experiment(file))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return run(DIGITS, tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    return run(RETRIEVAL, tmp_path_factory.mktemp("retrieval"))


def column(ctx, group_by, group, value):
    return [output[value] for output in ctx.outputs if output[group_by] == group]


def reciprocal_ranks(ctx, ranker):
    return column(ctx, "ranker", ranker, "reciprocal_rank")


# --- every example ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda file: file.stem)
def test_every_example_can_be_run_as_it_is_written(file):
    assert plan_experiment(load_experiment(file), builtin_registry())


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda file: file.stem)
def test_every_option_of_an_example_s_stages_has_a_description(file):
    for planned in plan_experiment(load_experiment(file), builtin_registry()):
        described = planned.stage.describe()
        assert described["description"]
        assert all(option.get("description") for option in described["schema"]["properties"].values()), planned.name


@pytest.mark.parametrize("name", ["digits", "retrieval"])
def test_every_stage_of_an_example_succeeds_once(name, request):
    ctx = request.getfixturevalue(name)
    assert ctx.completed_stages == tuple(stage.name for stage in ctx.experiment.pipeline)


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("digits", "2 of 3 comparisons in accuracy show a difference"),
        ("retrieval", "2 of 2 comparisons with bm25 in reciprocal rank show a difference"),
    ],
)
def test_the_reports_are_written_and_open_with_the_result(name, result, request):
    ctx = request.getfixturevalue(name)
    (output,) = ctx.experiment.outputs
    assert set(ctx.artifacts) == {f"{output.name}.{report_format}" for report_format in output.formats}
    markdown = Path(ctx.get_artifact(f"{name}.markdown")).read_text("utf-8")
    first_paragraph = markdown.split("\n\n")[1]
    assert first_paragraph.startswith(f"**{result}")
    html = Path(ctx.get_artifact(f"{name}.html")).read_text("utf-8")
    assert result in html
    assert html.index(result) < html.index("<table")


# --- digits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "classifier"), [("svm", SVC()), ("logistic", LogisticRegression()), ("ridge", RidgeClassifier())]
)
def test_the_accuracies_are_those_of_scikit_learn_s_own_cross_validation(digits, model, classifier):
    images, labels = load_digits(return_X_y=True)
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    with threadpool_limits(1):
        expected = cross_val_score(make_pipeline(StandardScaler(), classifier), images, labels, cv=folds)
    assert digits.assigns["bench_data"][model] == pytest.approx(expected)
    assert column(digits, "model", model, "accuracy") == pytest.approx(expected)
    assert digits.get_metric(f"{model}_accuracy") == pytest.approx(expected.mean())


def test_every_image_is_tested_in_exactly_one_fold_and_every_fold_has_every_digit(digits):
    fold_of_image, labels = digits.assigns["fold_of_image"], digits.assigns["labels"]
    assert fold_of_image.shape == (1797,)
    assert set(fold_of_image.tolist()) == set(range(10))
    for fold in range(10):
        in_fold = np.bincount(labels[fold_of_image == fold], minlength=10)
        assert in_fold.min() >= 17
        assert in_fold.max() <= 19


@pytest.mark.parametrize("model", ["svm", "logistic", "ridge"])
def test_no_model_and_no_scaler_has_seen_an_image_of_its_test_fold(digits, model):
    images, fold_of_image = digits.assigns["images"], digits.assigns["fold_of_image"]
    for fold, trained in enumerate(digits.assigns[f"{model}_models"]):
        others = images[fold_of_image != fold]
        scaler = trained.named_steps["standardscaler"]
        assert scaler.n_samples_seen_ == len(others) < len(images)
        np.testing.assert_allclose(scaler.mean_, others.mean(axis=0))


def test_the_support_vectors_are_images_of_the_other_folds(digits):
    images, fold_of_image = digits.assigns["images"], digits.assigns["fold_of_image"]
    for fold, (scaler, machine) in enumerate(digits.assigns["svm_models"]):
        others = scaler.transform(images[fold_of_image != fold])
        np.testing.assert_array_equal(machine.support_vectors_, others[machine.support_])


def corrected_t(first, second):
    """Nadeau & Bengio (2003), equation 9, for ten folds: t, its two-sided p-value, and the standard error."""
    differences = np.subtract(first, second)
    error = math.sqrt(differences.var(ddof=1) * (1 / 10 + 1 / 9))
    t = differences.mean() / error
    return t, 2 * stats.t.sf(abs(t), 9), error


def test_the_digits_models_are_compared_pair_by_pair_with_the_variance_that_shared_training_images_cause(digits):
    scores, bench = digits.assigns["bench_data"], digits.get_metric("bench")
    assert bench["design"] == "resampled"
    assert {name: group["n"] for name, group in bench["groups"].items()} == {"svm": 10, "logistic": 10, "ridge": 10}
    family = bench["comparisons"]
    assert (family["size"], family["correction"]) == (3, "bonferroni")
    for pair in family["comparisons"]:
        t, p, error = corrected_t(scores[pair["first"]], scores[pair["second"]])
        difference = fmean(scores[pair["first"]]) - fmean(scores[pair["second"]])
        reach = stats.t.ppf(1 - 0.05 / 6, 9) * error
        assert pair["statistic"] == pytest.approx(t)
        assert pair["p_value"] == pytest.approx(p)
        assert pair["p_adjusted"] == pytest.approx(min(1, 3 * p))
        assert pair["confidence_interval"] == pytest.approx([difference - reach, difference + reach])


def test_the_verdicts_of_the_digits_follow_from_their_intervals(digits):
    for verdict in digits.get_metric("bench")["verdicts"]:
        low, high = verdict["confidence_interval"]
        inner_low, inner_high = verdict["equivalence_interval"]
        better, equivalent = low > 0, inner_low > -0.01 and inner_high < 0.01
        expected = "equivalent" if equivalent else "better" if better else "worse" if high < 0 else "inconclusive"
        assert verdict["verdict"] == expected


def test_the_report_of_the_digits_shows_each_pair_its_interval_its_picture_and_what_was_assumed(digits):
    html = Path(digits.get_artifact("digits.html")).read_text("utf-8")
    for said in (
        "svm – logistic",
        "95% simultaneous CI",
        "adjusted by bonferroni",
        "the differences of any two folds have one correlation",
        "better",
    ):
        assert said in html
    assert html.count("<figure") == 2  # the forest of effects, and the folds themselves


def test_the_number_of_folds_is_a_decision_with_its_reason(digits):
    (decision,) = [one for one in digits.trace.decisions if one.stage == "split"]
    assert decision.decision == "10 folds"
    assert "the rarest digit has 174 images" in decision.reasoning


def test_the_digits_are_benchmarked_every_night_once_somebody_starts_the_schedule():
    schedule = load_experiment(DIGITS).schedule
    assert (schedule.cron, schedule.timezone, schedule.default_status) == ("0 2 * * *", "Europe/Berlin", "stopped")


def test_a_model_that_the_train_stage_does_not_know_is_refused_before_anything_runs():
    experiment = load_experiment(DIGITS).with_options("train_svm", {"model": "forest"})
    with pytest.raises(InvalidOptionsError, match=r"train_svm.*model.*'svm', 'logistic' or 'ridge'"):
        run_experiment(experiment)


def test_two_runs_of_digits_have_the_same_results(digits, tmp_path):
    assert same_but_for_reports(digits, run(DIGITS, tmp_path))


# --- retrieval --------------------------------------------------------------------------------------------------------


def test_the_functions_are_those_that_python_documents(retrieval):
    functions = {function["name"]: function for function in retrieval.assigns["functions"]}
    documented = " ".join(inspect.getdoc(heapq.merge).split())
    merge = functions["heapq.merge"]
    assert f"{merge['summary']} {merge['explanation']}" == documented


def test_every_query_has_one_right_answer_and_does_not_quote_it(retrieval):
    functions = retrieval.assigns["functions"]
    assert len(functions) == retrieval.get_metric("queries") >= 100
    assert len({function["summary"] for function in functions}) == len(functions)
    assert not any(function["summary"] in function["explanation"] for function in functions)
    checked = retrieval.get_metric("data_checks")
    assert checked["total"] - checked["missing_required"] >= len(functions)


def test_the_rankers_answer_the_same_queries_in_the_same_order(retrieval):
    queries = [function["name"] for function in retrieval.assigns["functions"]]
    for ranker in ("word_overlap", "tf_idf", "bm25"):
        assert column(retrieval, "ranker", ranker, "query") == queries


def test_tf_idf_ranks_as_scikit_learn_s_vectorizer_and_cosine_similarity_do(retrieval):
    functions = retrieval.assigns["functions"]
    vectorizer = TfidfVectorizer().fit(function["explanation"] for function in functions)
    similarity = cosine_similarity(
        vectorizer.transform(function["summary"] for function in functions),
        vectorizer.transform(function["explanation"] for function in functions),
    )
    expected = [1 / int((row >= row[i] - 1e-12).sum()) for i, row in enumerate(similarity)]
    assert reciprocal_ranks(retrieval, "tf_idf") == pytest.approx(expected)
    assert retrieval.get_metric("tf_idf_mean_reciprocal_rank") == pytest.approx(fmean(expected))


def test_word_overlap_and_bm25_rank_as_their_definitions_say(retrieval):
    functions = retrieval.assigns["functions"]
    words_of = CountVectorizer().build_analyzer()
    documents = [Counter(words_of(function["explanation"])) for function in functions]
    mean_length = fmean(document.total() for document in documents)
    holders = Counter(word for document in documents for word in document)

    def bm25(query, document):
        norm = 1.2 * (1 - 0.75 + 0.75 * document.total() / mean_length)
        return math.fsum(
            math.log(1 + (len(documents) - holders[word] + 0.5) / (holders[word] + 0.5))
            * document[word]
            / (document[word] + norm)
            for word in query & document.keys()
        )

    def word_overlap(query, document):
        return len(query & document.keys())

    for ranker, score in (("word_overlap", word_overlap), ("bm25", bm25)):
        recorded = reciprocal_ranks(retrieval, ranker)
        for i in range(0, len(functions), 20):
            query = set(words_of(functions[i]["summary"]))
            scores = [score(query, document) for document in documents]
            expected = 1 / sum(one >= scores[i] - 1e-12 for one in scores)
            assert recorded[i] == pytest.approx(expected), (ranker, functions[i]["name"])


def test_the_rankers_are_compared_with_standard_errors_over_modules_as_statsmodels_has_them(retrieval):
    modules = [output["module"] for output in retrieval.outputs if output["ranker"] == "bm25"]
    for pair in retrieval.get_metric("bench")["comparisons"]["comparisons"]:
        assert pair["second"] == "bm25"
        differences = np.subtract(reciprocal_ranks(retrieval, pair["first"]), reciprocal_ranks(retrieval, "bm25"))
        fit = OLS(differences, np.ones(len(differences))).fit(
            cov_type="cluster",
            cov_kwds={"groups": np.unique(modules, return_inverse=True)[1], "df_correction": True},
            use_t=True,
        )
        assert pair["estimate"] == pytest.approx(fit.params[0])
        # statsmodels multiplies by (N - 1) / (N - K) as well, which is 1 for a mean.
        assert pair["statistic"] == pytest.approx(fit.tvalues[0])
        assert pair["p_value"] == pytest.approx(fit.pvalues[0])


def test_two_runs_of_retrieval_have_the_same_results(retrieval, tmp_path):
    assert same_but_for_reports(retrieval, run(RETRIEVAL, tmp_path))


def same_but_for_reports(ctx, again):
    return not [name for name in ctx.differences(again) if not name.startswith("artifacts")]
