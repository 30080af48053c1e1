"""Whether a daemon of DAGSTER_HOME works: `python -m crucible_dagster.service.daemon_health`.

`dagster-daemon liveness-check` imports Dagster to ask the database, which takes two seconds of CPU time every time. So
the running daemon asks the database and touches a file if all is well. This check only looks at the age of the file.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

__all__ = ["SILENCE", "main", "sign_of_life"]

SILENCE = 60.0
"""Seconds without a sign of life after which a daemon counts as not working."""


def sign_of_life(home: Path) -> Path:
    """The file that the daemon of a DAGSTER_HOME touches while all is well."""
    return home / "storage" / ".daemon_is_well"


def main() -> None:
    """Exit with 0 if the daemon is well, else say why not and exit with 1."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        sys.exit("DAGSTER_HOME is not set: it must name the folder of the instance whose daemon is checked")
    try:
        age = time.time() - sign_of_life(Path(home)).stat().st_mtime
    except FileNotFoundError:
        sys.exit(f"no daemon of {home} works: it was not started, has ended, or cannot reach the database")
    if age > SILENCE:
        sys.exit(f"the daemon of {home} has given no sign of life for {age:.0f} s; at most {SILENCE:.0f} s are allowed")


if __name__ == "__main__":
    main()
