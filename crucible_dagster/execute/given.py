"""The assigns that a run was launched with: kept in the store as the Context before the first stage.

They are values, which run config cannot hold. The runs that resume or retry a run, or execute it again, have its tag,
and begin with them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import DagsterRun

from crucible_core import Context, Plan
from crucible_core.ir.secrets import shown_experiment
from crucible_core.values.arguments import check_run_id
from crucible_dagster.store import ContextStore
from crucible_dagster.store.io_manager import new_attempt
from crucible_dagster.tags import ASSIGNS_TAG

__all__ = ["given_to", "keep_given"]

BEFORE_FIRST = "before-first"
"""In the place of a step, none of which can have this name."""


def keep_given(store: ContextStore, plan: Plan, run_id: str, assigns: Mapping[str, Any]) -> dict[str, str]:
    """Keep the assigns for a run that is about to be launched; returns the tags that it needs.

    Raises StoreError for a value that cannot be stored, or a store that cannot be written to.
    """
    shown = shown_experiment(plan.experiment, [type(one.stage) for one in plan], plan.resources)
    context = Context.begin(shown, run_id=run_id, assigns=assigns)
    store.save(context, run_id, BEFORE_FIRST, attempt=new_attempt())
    return {ASSIGNS_TAG: run_id}


def given_to(store: ContextStore, run: DagsterRun) -> Context | None:
    """The Context before the first stage of a run that was given assigns, or goes on from one that was.

    Raises StoreError if it is not in the store any more, or damaged, and CrucibleError for a tag that names no run.
    """
    owner = run.tags.get(ASSIGNS_TAG)
    if owner is None:
        return None
    check_run_id(owner)  # whoever may launch runs can write any tag, and this one is a part of a path
    return store.load(owner, BEFORE_FIRST)
