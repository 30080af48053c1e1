"""The stages of fairness.yaml: predict, and compare the predictions between groups."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crucible_core import Context, Settings, Stage

Rate = Literal["demographic_parity", "true_positive_rate", "false_positive_rate", "predictive_parity"]

RATES: Mapping[Rate, tuple[Callable[[Mapping[str, Any]], bool], str]] = {
    "demographic_parity": (lambda _: True, "predicted"),
    "true_positive_rate": (lambda row: row["actual"], "predicted"),
    "false_positive_rate": (lambda row: not row["actual"], "predicted"),
    "predictive_parity": (lambda row: row["predicted"], "actual"),
}
"""The share of what, among which rows, is compared. Equalized odds are the second and the third."""


class Fairness(BaseModel, extra="forbid"):
    """The settings in `reliability.fairness`: the field with the groups, the rates, the largest fair difference."""

    group_by: str
    metrics: list[Rate] = Field(min_length=1)
    threshold: float = Field(default=0.1, gt=0, le=1)


class Predict(Stage):
    """Predicts whether the diabetes of each patient progresses fast, by models trained on other patients."""

    with_sex: bool = True
    """Whether the sex of a patient is a feature for the models."""

    def run(self, ctx: Context) -> Context:
        patients = load_diabetes(scaled=False)
        told = patients.data[:, [self.with_sex or name != "sex" for name in patients.feature_names]]
        actual = patients.target > 140  # about the median
        model = make_pipeline(StandardScaler(), LogisticRegression())
        predicted = cross_val_predict(model, told, actual, cv=StratifiedKFold(10, shuffle=True, random_state=0))
        sexes = patients.data[:, patients.feature_names.index("sex")]
        rows = zip(sexes.tolist(), actual.tolist(), predicted.tolist(), strict=True)
        outputs = [{"sex": f"sex {sex:.0f}", "actual": was, "predicted": said} for sex, was, said in rows]
        return ctx.add_outputs(outputs).put_metric("accuracy", float((predicted == actual).mean()))


class Disparities(Stage):
    """Measures how far each rate differs between the groups, and whether every difference is fair."""

    settings: ClassVar = Settings("reliability.fairness", Fairness)

    def run(self, ctx: Context) -> Context:
        said = self.settings.of(ctx.experiment)
        differences = {}
        for rate in said.metrics:
            among, what = RATES[rate]
            groups: dict[str, list[bool]] = defaultdict(list)
            for row in filter(among, ctx.outputs):
                groups[row[said.group_by]].append(row[what])
            shares = [fmean(values) for values in groups.values()]
            differences[rate] = max(shares) - min(shares)
            ctx = ctx.assign(rate, dict(sorted(groups.items())))
        return ctx.merge_metrics({"difference": differences, "fair": max(differences.values()) <= said.threshold})
