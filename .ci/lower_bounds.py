"""Print the lowest versions that pyproject.toml allows for the base install and the statistics, as pip constraints."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

for requirement in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["stats"]]:
    name, lowest = re.match(r"([\w.-]+)>=([\d.]+)", requirement).groups()
    print(f"{name}=={lowest}")
