"""The built-in stages: validate, data_checks, bench, report."""

from __future__ import annotations

from collections.abc import Mapping

from crucible_core.stage import Stage
from crucible_core.stages.bench import Bench
from crucible_core.stages.data_checks import DataChecks
from crucible_core.stages.report import Report
from crucible_core.stages.validate import Validate

__all__ = ["BUILTIN_STAGES", "Bench", "DataChecks", "Report", "Validate"]

BUILTIN_STAGES: Mapping[str, type[Stage]] = {
    "bench": Bench,
    "data_checks": DataChecks,
    "report": Report,
    "validate": Validate,
}
