"""The code location of workspace.yaml: the experiments of the folder that CRUCIBLE_EXPERIMENTS names.

It may name several folders, separated as in PATH; the default is `examples`. In a project of your own, a
definitions.py only needs to call `build_definitions`.
"""

import os

from dagster import Definitions, in_process_executor

from crucible_dagster.code_location import build_definitions

defs = Definitions.merge(
    build_definitions(os.environ.get("CRUCIBLE_EXPERIMENTS", "examples").split(os.pathsep)),
    # For runs launched from an asset; jobs have their own. A process for each step would take seconds longer.
    Definitions(executor=in_process_executor),
)
