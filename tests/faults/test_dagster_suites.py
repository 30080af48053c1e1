"""Dagster's own suites for its storage, on PostgreSQL as it is deployed: `make conformance`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFORMANCE = Path(__file__).parents[2] / ".ci" / "conformance.py"


@pytest.mark.fault("R9")
@pytest.mark.all_faults
def test_dagster_s_suites_pass_on_the_storage_that_is_deployed() -> None:
    done = subprocess.run([sys.executable, CONFORMANCE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
    assert " passed" in done.stdout
