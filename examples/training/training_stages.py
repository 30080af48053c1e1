"""The stages of training.yaml: load images, train a network epoch by epoch, evaluate it."""

from copy import deepcopy

import numpy as np
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from crucible_core import Context, Stage, progress


class Load(Stage):
    """Divides the images that come with scikit-learn into three parts, with every digit in equal shares."""

    share: float = Field(default=0.2, gt=0, lt=0.5)
    """The share of the images for validation, and the same share for the test."""
    seed: int = Field(default=0, ge=0)
    """The seed of the division."""

    def run(self, ctx: Context) -> Context:
        images, labels = load_digits(return_X_y=True)
        size = round(self.share * len(labels))
        rest, test = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=self.seed)
        training, validation = train_test_split(rest, test_size=size, stratify=labels[rest], random_state=self.seed)
        return ctx.assign(images=images / 16, labels=labels, training=training, validation=validation, test=test)


class Train(Stage):
    """Trains a network with one hidden layer and keeps the best epoch; after a kill, it continues from the last one."""

    epochs: int = Field(default=30, ge=1)
    """How often the network sees every image."""
    hidden: int = Field(default=32, ge=1)
    """Units of the hidden layer."""
    rate: float = Field(default=0.02, gt=0)
    """Step size of Adam."""
    batch_size: int = Field(default=64, ge=1)
    """Images per step."""
    seed: int = Field(default=0, ge=0)
    """The seed of the first weights and of the order of the images."""

    def run(self, ctx: Context) -> Context:
        images, labels, training, held_out = (ctx.assigns[n] for n in ("images", "labels", "training", "validation"))
        # Not the plain number: then every epoch would start from it and use the order of the first epoch.
        random = np.random.RandomState(self.seed)
        new = MLPClassifier(self.hidden, learning_rate_init=self.rate, batch_size=self.batch_size, random_state=random)
        model, best, curve = ctx.restore("epoch", (new, new, []))
        if curve:
            ctx = ctx.decide(f"go on after epoch {len(curve)}", "it has a checkpoint", alternatives=["begin anew"])
        for epoch in progress(range(1, self.epochs + 1), description="epochs"):
            if epoch > len(curve):
                with threadpool_limits(1):  # so that the network does not depend on the number of cores
                    model.partial_fit(images[training], labels[training], classes=np.unique(labels))
                    losses = [log_loss(labels[one], model.predict_proba(images[one])) for one in (training, held_out)]
                curve.append({"training_loss": losses[0], "validation_loss": losses[1]})
                if losses[1] == min(one["validation_loss"] for one in curve):
                    best = deepcopy(model)
                ctx = ctx.checkpoint("epoch", (model, best, curve))
            # Also for epochs before a kill, so that the report of this run has the whole curve.
            ctx = ctx.log_metrics(curve[epoch - 1], step=epoch)
        return ctx.assign(model=best)


class Evaluate(Stage):
    """Measures how often the best epoch is right on images that were not used for any choice."""

    def run(self, ctx: Context) -> Context:
        test = ctx.assigns["test"]
        labels = ctx.assigns["labels"][test]
        said = ctx.assigns["model"].predict(ctx.assigns["images"][test])
        ctx = ctx.add_outputs(
            {"image": int(row), "label": int(label), "predicted": int(one), "right": bool(label == one)}
            for row, label, one in zip(test, labels, said, strict=True)
        )
        f1 = float(f1_score(labels, said, average="macro"))
        return ctx.merge_metrics({"accuracy": float((said == labels).mean()), "f1": f1})
