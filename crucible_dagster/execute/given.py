"""The assigns that a run was launched with: kept in the store as the Context before the first stage.

Run config cannot hold such values. Runs that resume, retry or re-execute a run get its tag, so they begin with the same
assigns.
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
"""Used like the name of a step; no step can have this name."""


def keep_given(store: ContextStore, plan: Plan, run_id: str, assigns: Mapping[str, Any]) -> dict[str, str]:
    """Keep the assigns for a run that is about to be launched; returns the tags that it needs.

    Raises StoreError for a value that cannot be stored, or a store that cannot be written to.
    """
    shown = shown_experiment(plan.experiment, [type(one.stage) for one in plan], plan.resources)
    context = Context.begin(shown, run_id=run_id, assigns=assigns)
    store.save(context, run_id, BEFORE_FIRST, attempt=new_attempt())
    return {ASSIGNS_TAG: run_id}


def given_to(store: ContextStore, run: DagsterRun) -> Context | None:
    """The Context before the first stage of a run that was given assigns, or that continues such a run; else None.

    Raises StoreError if it is damaged or no longer in the store, and CrucibleError if the tag is not a run id.
    """
    owner = run.tags.get(ASSIGNS_TAG)
    if owner is None:
        return None
    check_run_id(owner)  # anyone who may launch runs can set any tag, and this one becomes part of a path
    return store.load(owner, BEFORE_FIRST)
