"""The code location of workspace.yaml: the experiments of the folder that CRUCIBLE_EXPERIMENTS names.

It may name several, separated as in PATH; unset, it is `examples`. In a project of your own, `build_definitions`
is all that a definitions.py needs.
"""

import os

from dagster import Definitions, in_process_executor

from crucible_dagster.code_location import build_definitions

defs = Definitions.merge(
    build_definitions(os.environ.get("CRUCIBLE_EXPERIMENTS", "examples").split(os.pathsep)),
    # Of runs that an asset launches; a job has its own. In a process for each step they would take seconds longer.
    Definitions(executor=in_process_executor),
)
