"""The stages of digits.yaml and digits_sweep.yaml: load, split, train, evaluate."""

from statistics import fmean
from typing import Literal

import numpy as np
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from crucible_core import Context, Stage

ModelName = Literal["svm", "logistic", "ridge"]

CLASSIFIERS = {
    "svm": lambda strength: SVC(C=1 / strength),
    "logistic": lambda strength: LogisticRegression(C=1 / strength),
    "ridge": lambda strength: RidgeClassifier(alpha=strength),
}
"""Name -> function from the strength of the regularization to a model."""


class LoadDigits(Stage):
    """Loads the images of handwritten digits that come with scikit-learn."""

    def run(self, ctx: Context) -> Context:
        images, labels = load_digits(return_X_y=True)
        examples = [
            {"image": image, "label": label} for image, label in zip(images.tolist(), labels.tolist(), strict=True)
        ]
        return ctx.assign(images=images, labels=labels, examples=examples)


class Split(Stage):
    """Divides the images into folds, with every digit in equal shares."""

    folds: int = Field(default=10, ge=2)
    """How many folds to make; fewer if the rarest digit has fewer images than that."""
    seed: int = Field(default=0, ge=0)
    """The seed of the shuffling: the same seed gives the same folds."""

    def run(self, ctx: Context) -> Context:
        labels = ctx.assigns["labels"]
        rarest = np.bincount(labels).min()
        folds = min(self.folds, rarest)
        splitter = StratifiedKFold(folds, shuffle=True, random_state=self.seed)
        fold_of_image = np.empty_like(labels)
        for fold, (_, members) in enumerate(splitter.split(labels, labels)):
            fold_of_image[members] = fold
        return ctx.assign(fold_of_image=fold_of_image).decide(
            f"{folds} folds",
            f"the rarest digit has {rarest} images, so that every fold holds at least {rarest // folds} of each digit",
        )


class Train(Stage):
    """Trains one model once per fold, each time on the images of all the other folds."""

    model: ModelName
    """`svm`: support vector machine with an RBF kernel; `logistic`, `ridge`: logistic and ridge regression."""
    C: float = Field(default=1.0, gt=0)
    """Inverse strength of the regularization."""

    def run(self, ctx: Context) -> Context:
        images, labels, fold_of_image = ctx.assigns["images"], ctx.assigns["labels"], ctx.assigns["fold_of_image"]
        models = []
        for fold in np.unique(fold_of_image):
            # The scaler belongs to the model: it must not see the images of the test fold either.
            model = make_pipeline(StandardScaler(), CLASSIFIERS[self.model](1 / self.C))
            training = fold_of_image != fold
            # One thread, so that the model does not depend on the number of cores; for so few images it is no slower.
            with threadpool_limits(1):
                models.append(model.fit(images[training], labels[training]))
        return ctx.assign(f"{self.model}_models", models)


class Evaluate(Stage):
    """Measures how often each model is right on the fold that it was not trained on."""

    models: list[ModelName] = Field(min_length=1)
    """The models to evaluate."""

    def run(self, ctx: Context) -> Context:
        images, labels, fold_of_image = ctx.assigns["images"], ctx.assigns["labels"], ctx.assigns["fold_of_image"]
        accuracies: dict[str, list[float]] = {}
        for name in self.models:
            accuracies[name] = []
            for fold, model in enumerate(ctx.assigns[f"{name}_models"]):
                test = fold_of_image == fold
                accuracy = model.score(images[test], labels[test])
                accuracies[name].append(accuracy)
                ctx = ctx.add_output({"model": name, "fold": fold, "accuracy": accuracy})
            ctx = ctx.put_metric(f"{name}_accuracy", fmean(accuracies[name]))
        return ctx.assign(bench_data=accuracies)


class HoldOut(Stage):
    """Holds out a part of the images for the test, every digit in equal shares."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """The share of the images that is held out."""
    seed: int = Field(default=0, ge=0)
    """The seed of the random choice: the same seed holds out the same images."""

    def run(self, ctx: Context) -> Context:
        labels = ctx.assigns["labels"]
        everything = np.arange(len(labels))
        training, test = train_test_split(everything, test_size=self.share, stratify=labels, random_state=self.seed)
        return ctx.assign(training=training, test=test)


class Fit(Stage):
    """Trains one model on the images that were not held out."""

    model: ModelName = "logistic"
    """`svm`: support vector machine with an RBF kernel; `logistic`, `ridge`: logistic and ridge regression."""
    C: float = Field(default=1.0, gt=0)
    """Inverse strength of the regularization."""

    def run(self, ctx: Context) -> Context:
        images, labels, training = ctx.assigns["images"], ctx.assigns["labels"], ctx.assigns["training"]
        model = make_pipeline(StandardScaler(), CLASSIFIERS[self.model](1 / self.C))
        with threadpool_limits(1):
            return ctx.assign(model=model.fit(images[training], labels[training]))


class Score(Stage):
    """Measures how often the model is right on the images that were held out."""

    def run(self, ctx: Context) -> Context:
        images, labels, test = ctx.assigns["images"], ctx.assigns["labels"], ctx.assigns["test"]
        return ctx.put_metric("accuracy", float(ctx.assigns["model"].score(images[test], labels[test])))
