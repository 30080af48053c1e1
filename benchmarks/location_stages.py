"""The stages that the experiment files of `code_location.py` name."""

from typing import Literal

from pydantic import Field

from crucible_core import Context, Stage


class Load(Stage):
    """Loads a sample of a data set."""

    dataset: str
    """Its name."""
    limit: int = Field(default=1_000, ge=1)
    """How many examples."""
    seed: int = Field(default=0, ge=0)
    """Of the sample."""

    def run(self, ctx: Context) -> Context:
        return ctx.assign(examples=[])


class Train(Stage):
    """Trains one model."""

    model: Literal["svm", "logistic"]
    """Which."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Step size."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the data."""

    def run(self, ctx: Context) -> Context:
        return ctx.assign(model=self.model)


class Evaluate(Stage):
    """Measures the model."""

    metrics: list[str] = Field(default=["accuracy"], min_length=1)
    """Which metrics."""
    folds: int = Field(default=5, ge=2)
    """Of the cross-validation."""

    def run(self, ctx: Context) -> Context:
        return ctx.put_metric("accuracy", 1.0)
