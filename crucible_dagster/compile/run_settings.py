"""Settings of a run that are not options of one stage: the config of the job's resource `experiment`.

```yaml
resources:
  experiment:
    config: {variant: small, seed: 7, tracing: true, log_level: INFO, library_log_level: WARNING}
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dagster
from dagster import Field, PartitionedConfig, static_partitioned_config

from crucible_core import Experiment, InvalidExperimentError
from crucible_dagster.compile.op_config import enum_of
from crucible_dagster.execute.compiled import EXPERIMENT_KEY, LOG_LEVELS, RunSettings
from crucible_dagster.execute.failures import RefusedConfigError
from crucible_dagster.tags import VARIANT_TAG

__all__ = [
    "EXPERIMENT_KEY",
    "LOG_LEVELS",
    "VARIANT_TAG",
    "RunSettings",
    "config_of_variant",
    "settings_fields",
    "settings_of",
    "settings_of_any_experiment",
    "tags_of_variant",
    "variants_as_partitions",
]


def settings_fields(experiment: Experiment) -> dict[str, Field]:
    """The config fields of the resource; the experiment file's values are their defaults."""
    variant = {"default_value": experiment.variant} if experiment.variant else {"is_required": False}
    seed = {"is_required": False} if experiment.seed is None else {"default_value": experiment.seed}
    fields = {
        "seed": Field(
            dagster.Int,
            description="The seed of every stage that has an option `seed` without a value.",
            **seed,
        ),
        "tracing": Field(
            dagster.Bool,
            default_value=True,
            description="Whether decisions and metrics are sent to Dagster while a stage runs, and spans to "
            "OpenTelemetry if it is set up. The trace itself is always kept.",
        ),
        "log_level": Field(
            enum_of(LOG_LEVELS),
            default_value="INFO",
            description="The lowest level of log lines to show from the stages' own packages.",
        ),
        "library_log_level": Field(
            enum_of(LOG_LEVELS),
            default_value="WARNING",
            description="The lowest level of log lines to show from all other packages.",
        ),
    }
    if experiment.variants:
        described = "The variant of the experiment file to run. Options set for a stage override the variant's."
        chosen = Field(enum_of(tuple(experiment.variants)), description=described, **variant)
        fields = {"variant": chosen, **fields}
    return fields


def settings_of_any_experiment() -> dict[str, Field]:
    """The same for the resource that all assets of a code location share."""
    fields = settings_fields(_ANY)
    described = "The variant of the experiment file to run. Options set for a stage override the variant's."
    return {"variant": Field(dagster.String, description=described, is_required=False), **fields}


_ANY = Experiment.model_validate({"id": "any", "pipeline": [{"name": "any"}]})


def settings_of(experiment: Experiment, config: Mapping[str, Any]) -> RunSettings:
    """The settings of a run, from config with the fields of `settings_fields`.

    Raises RefusedConfigError for an invalid seed; Dagster calls this before it creates a run.
    """
    settings = RunSettings(**config)
    if settings.seed is not None and settings.seed != experiment.seed:
        try:
            experiment.with_seed(settings.seed)
        except InvalidExperimentError as error:
            raise RefusedConfigError(f"resource {EXPERIMENT_KEY!r}: {error}", dict(config)) from None
    return settings


def variants_as_partitions(
    experiment: Experiment, options_of: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
) -> PartitionedConfig[Any] | None:
    """The variants as the job's partitions: the Launchpad fills in the chosen one, a backfill runs them all.

    The config contains the variant's options too, so that the Launchpad shows what is run. `options_of` takes a stage's
    name and options, and returns op config by the step's name. Returns None for an experiment without variants, or for
    one that is a variant itself.
    """
    if not experiment.variants or experiment.variant is not None:
        return None
    variants = experiment.variants

    @static_partitioned_config(
        partition_keys=list(variants), tags_for_partition_key_fn=lambda name: {VARIANT_TAG: name}
    )
    def of_variant(name: str) -> dict[str, Any]:
        ops: dict[str, Any] = {}
        for stage, options in variants[name].items():
            ops.update(options_of(stage, options))
        return {"ops": ops, **config_of_variant(name)}

    return of_variant


def config_of_variant(name: str | None) -> dict[str, Any]:
    """The run config that chooses a variant; empty for None."""
    return {} if name is None else {"resources": {EXPERIMENT_KEY: {"config": {"variant": name}}}}


def tags_of_variant(name: str | None) -> dict[str, str]:
    return {} if name is None else {VARIANT_TAG: name}
