"""The daemon's health check; test_one_daemon.py has what a daemon does for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from crucible_dagster.service.daemon_health import SILENCE, main, sign_of_life


@pytest.fixture
def sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the daemon of DAGSTER_HOME touches; it is not there yet."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "storage").mkdir()
    return sign_of_life(tmp_path)


def said() -> object:
    """What it is ended with."""
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_daemon_that_has_just_given_a_sign_of_life_is_well(sign: Path) -> None:
    sign.touch()
    main()


def test_one_that_never_did_or_ended_is_not_well(sign: Path) -> None:
    home = sign.parent.parent
    assert said() == f"no daemon of {home} works: it was not started, has ended, or cannot reach the database"


def test_one_that_has_been_silent_for_long_is_not_well_and_the_time_is_said(sign: Path) -> None:
    sign.touch()
    long_ago = time.time() - SILENCE - 30
    os.utime(sign, (long_ago, long_ago))
    assert said() == f"the daemon of {sign.parent.parent} has given no sign of life for 90 s; at most 60 s are allowed"


def test_without_dagster_home_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert "DAGSTER_HOME is not set" in str(said())
