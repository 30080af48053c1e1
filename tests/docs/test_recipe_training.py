"""The recipe for training: its numbers are those of scikit-learn alone, and a kill costs one epoch."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import python
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from crucible_core import Context, builtin_registry, load_experiment, plan_experiment, run_experiment

FILE = Path(__file__).parents[2] / "examples" / "training" / "training.yaml"
EPOCHS = 6

# Counts each epoch that begins, and kills the process in the one that KILL_IN names.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from sklearn.neural_network import MLPClassifier
from crucible_core.cli import main

an_epoch = MLPClassifier.partial_fit

def counted(self, *given, **named):
    with Path("epochs").open("a") as marks:
        marks.write(".")
    if Path("epochs").stat().st_size == int(os.environ.get("KILL_IN", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return an_epoch(self, *given, **named)

MLPClassifier.partial_fit = counted
sys.exit(main())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A run that nobody disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path_factory.mktemp("reports")))
        return run_experiment(load_experiment(FILE).with_options("train", {"epochs": EPOCHS}))


def test_the_curve_and_the_numbers_are_those_of_scikit_learn_alone(trained: Context) -> None:
    images, labels = load_digits(return_X_y=True)
    images /= 16
    rest, test, labels_of_rest, labels_of_test = train_test_split(
        images, labels, test_size=359, stratify=labels, random_state=3
    )
    x, held_out, y, labels_held_out = train_test_split(
        rest, labels_of_rest, test_size=359, stratify=labels_of_rest, random_state=3
    )
    model = MLPClassifier((32,), learning_rate_init=0.02, batch_size=64, random_state=np.random.RandomState(3))
    losses, said = [], []
    for _ in range(EPOCHS):
        with threadpool_limits(1):
            model.partial_fit(x, y, classes=range(10))
        losses.append(log_loss(labels_held_out, model.predict_proba(held_out)))
        said.append(model.predict(test))
    assert trained.metrics["validation_loss"].steps == list(range(1, EPOCHS + 1))
    assert trained.metrics["validation_loss"].numbers == pytest.approx(losses)
    best = said[int(np.argmin(losses))]
    assert trained.metrics["accuracy"] == pytest.approx(np.mean(best == labels_of_test))
    assert trained.metrics["f1"] == pytest.approx(f1_score(labels_of_test, best, average="macro"))
    assert np.mean([row["right"] for row in trained.outputs]) == trained.metrics["accuracy"]


def test_no_image_is_in_two_parts(trained: Context) -> None:
    parts = [trained.assigns[name] for name in ("training", "validation", "test")]
    assert [len(part) for part in parts] == [1079, 359, 359]
    assert sorted(np.concatenate(parts)) == list(range(1797))


def test_the_best_epoch_is_kept_and_the_gates_judge_it(trained: Context) -> None:
    gates = {one.gate: one for one in trained.trace.gates}
    assert gates["learned"].status == "passed"
    assert f"{trained.metrics['validation_loss']['min']:.4g}" in gates["learned"].sentence
    rows, model = trained.assigns["validation"], trained.assigns["model"]
    again = log_loss(trained.assigns["labels"][rows], model.predict_proba(trained.assigns["images"][rows]))
    assert again == pytest.approx(trained.metrics["validation_loss"]["min"])


def test_the_report_opens_with_the_accuracy_and_has_both_curves(trained: Context) -> None:
    html = Path(trained.get_artifact("training.html")).read_text("utf-8")
    assert f">accuracy = {trained.metrics['accuracy']:.4g}" in html
    assert html.count("<figure") == 2


@pytest.mark.slow
@pytest.mark.parametrize("where", ["here", "on Dagster"])
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    where: str, trained: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CRUCIBLE_OUTPUT_ROOT", str(tmp_path / "reports"))
    place = ["--keep", "kept"] if where == "here" else ["--dagster"]
    begin = ["run", str(FILE), "--set", f"train.epochs={EPOCHS}", *place]
    monkeypatch.setenv("KILL_IN", "4")
    killed = python("-c", PROGRAM, *begin)
    assert killed.returncode == -signal.SIGKILL
    monkeypatch.delenv("KILL_IN")
    again = begin
    if where == "on Dagster":
        (run,) = re.findall(r"^training run (\S+)", killed.stdout)
        again = ["resume", run]
    done = python("-c", PROGRAM, *again, "--json")
    assert done.returncode == 0, done.stderr
    # Three epochs before the kill, the one that it hit, and the other three.
    assert (tmp_path / "epochs").stat().st_size == 7
    said = json.loads(done.stdout)
    assert said["decisions"][-1]["decision"] == "go on after epoch 3"
    for name in ("training_loss", "validation_loss"):
        assert said["metrics"][name] == dict(trained.metrics[name])
    assert said["metrics"]["accuracy"] == trained.metrics["accuracy"]


def test_the_quick_variant_trains_for_five_epochs() -> None:
    quick = load_experiment(FILE).with_variant("quick", builtin_registry())
    assert quick.pipeline[quick.index_of("train")].options == {"epochs": 5}


def test_the_sweep_that_the_page_describes_has_all_stages_in_each_trial(tmp_path: Path) -> None:
    page = FILE.with_name("README.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (bench,) = re.findall(r"`- (\{name: bench.*\})`", page)
    shutil.copy(FILE.with_name("training_stages.py"), tmp_path)
    sweep = FILE.read_text("utf-8").replace("  - name: report\n", f"  - {bench}\n  - name: report\n") + block
    (tmp_path / "sweep.yaml").write_text(sweep)
    experiment = load_experiment(tmp_path / "sweep.yaml")
    plan = plan_experiment(experiment, builtin_registry())
    (trials, *after) = plan.stages[1:]
    said = trials.stage.summary(plan.experiment)
    assert said.startswith("15 trials (3 arms x 5 replicates) of the stages load, train, evaluate;")
    assert [one.name for one in after] == ["bench", "report"]
