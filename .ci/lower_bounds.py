"""Print the lowest versions that pyproject.toml allows for what the core and the statistics use, as pip constraints."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What the core uses where it is installed; pip would take the newest, which may refuse the lowest numpy.
IF_THERE = ("pandas", "pyarrow")

for requirement in [*PROJECT["dependencies"], *EXTRAS["stats"], *EXTRAS["optuna"], *EXTRAS["dev"]]:
    name, lowest = re.match(r"([\w.-]+)(?:\[.*\])?(?:>=([\d.]+))?", requirement).groups()
    if requirement not in EXTRAS["dev"] or name in IF_THERE:
        print(f"{name}=={lowest}")
