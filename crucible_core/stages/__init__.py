"""The built-in stages, entry points of the group `crucible.stages`: validate, data_checks, bench, report, trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crucible_core.values.lazy_names import lazy_names

if TYPE_CHECKING:
    from crucible_core.stages.bench import Bench
    from crucible_core.stages.data_checks import DataChecks
    from crucible_core.stages.report import Report
    from crucible_core.stages.validate import Validate

__all__ = ["Bench", "DataChecks", "Report", "Validate"]

_HOMES = {"Bench": "bench", "DataChecks": "data_checks", "Report": "report", "Validate": "validate"}
__getattr__ = lazy_names(__name__, _HOMES)
