"""The code location of workspace.yaml: the experiments of the folder that CRUCIBLE_EXPERIMENTS names.

It may name several, separated as in PATH; unset, it is `examples`. In a project of your own, these lines are all that
a definitions.py needs.
"""

import os

from crucible_dagster.code_location import build_definitions

defs = build_definitions(os.environ.get("CRUCIBLE_EXPERIMENTS", "examples").split(os.pathsep))
