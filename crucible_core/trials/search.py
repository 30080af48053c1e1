"""Arms that are chosen by what earlier ones measured: optuna's ask and tell, replayed from the table."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from crucible_core.errors import MissingExtraError
from crucible_core.trials.table import Arm, Trial, arm_of, table_of
from crucible_core.values.jsonable import as_number

__all__ = ["ends_of", "searched"]


def searched(
    table: Sequence[Mapping[str, Any]],
    measure: str,
    replicates: int,
    seed: int,
    *,
    sampler: str,
    budget: int,
    batch: int,
    space: Mapping[str, Any],
    higher_is_better: bool | None,
) -> Iterator[list[Trial]]:
    """The trials of each batch of arms; `table` then has the rows of the batches before.

    Which arms are chosen follows from the seed and from each arm's mean of the measure, so a search that is continued
    chooses the same arms. An arm that is chosen again is not run again; one that measured nothing has failed.

    Raises MissingExtraError if optuna is not installed.
    """
    try:
        import optuna  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("searching for the best options", "optuna") from error
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise it reports that it has made a study
    study = optuna.create_study(
        sampler=samplers[sampler](seed=seed % 2**32),
        direction="maximize" if higher_is_better is not False else "minimize",
    )
    optuna.logging.set_verbosity(verbosity)
    distributions = {key: _distribution(optuna.distributions, values) for key, values in space.items()}
    arms: dict[str, Arm] = {}
    for first in range(0, budget, batch):
        asked = {}
        new = []
        for _ in range(min(batch, budget - first)):
            trial = study.ask(distributions)
            varied = {key: _value(values, trial.params[key]) for key, values in space.items()}
            key = json.dumps(varied)
            if key not in arms:
                arms[key] = arm_of(varied, {arm.name for arm in arms.values()})
                new.append(arms[key])
            asked[trial.number] = arms[key].name
        yield list(table_of(new, replicates, seed))
        measured: dict[str, list[float]] = defaultdict(list)
        for row in table:
            value = as_number(row.get(measure))
            if value is not None and not math.isnan(value):
                measured[row["arm"]].append(float(value))
        for number, name in asked.items():
            found = measured.get(name)
            study.tell(number, fmean(found) if found else None, state=None if found else optuna.trial.TrialState.FAIL)


def ends_of(values: Any) -> list[Any]:
    """The values of an option that show whether all are possible: each choice, or both ends of the range."""
    return values if isinstance(values, list) else [values["low"], values["high"]]


def _distribution(distributions: Any, values: Any) -> Any:
    if isinstance(values, list):
        return distributions.CategoricalDistribution(range(len(values)))  # their places: True is not 1
    low, high, log = values["low"], values["high"], values.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log=log)
    return distributions.FloatDistribution(low, high, log=log)


def _value(values: Any, asked: Any) -> Any:
    return values[asked] if isinstance(values, list) else asked
