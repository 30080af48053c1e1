"""The built-in stages, each an entry point of the group `crucible.stages`: validate, data_checks, bench, report."""

from __future__ import annotations

from crucible_core.stages.bench import Bench
from crucible_core.stages.data_checks import DataChecks
from crucible_core.stages.report import Report
from crucible_core.stages.validate import Validate

__all__ = ["Bench", "DataChecks", "Report", "Validate"]
