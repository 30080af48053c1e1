"""Dagster's webserver with limits: `python -m crucible_dagster.service.webserver`, with its own options.

Two things are inside GraphQL, where no proxy can prevent them: a short query that asks for the same thing hundreds of
times, which blocks the webserver for half a minute; and answers that contain tracebacks of the webserver.
"""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from dagster_webserver import app
from dagster_webserver.cli import dagster_webserver
from dagster_webserver.webserver import DagsterWebserver
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    parse,
)
from starlette.responses import JSONResponse

__all__ = ["MOST_ALIASES", "MOST_CHARACTERS", "MOST_FIELDS", "main", "refusal_of"]

MOST_CHARACTERS = 50_000
"""Allowed length of a query: several times the longest query of Dagster's UI."""
MOST_FIELDS = 20_000
"""Allowed fields of an operation; those of a fragment count wherever it is used."""
MOST_ALIASES = 50
"""Allowed aliases of an operation, counted in the same way; also its allowed top-level fields."""

_failures: ContextVar[list[Exception]] = ContextVar("_failures")
_log = logging.getLogger("crucible.webserver")


def refusal_of(query: object, *, read_only: bool = False) -> str | None:
    """Why a query is refused; None if it may be executed, or if it is invalid and gets Dagster's own answer.

    A read-only webserver accepts no mutations at all. Dagster leaves that check to each mutation.
    """
    if not isinstance(query, str):
        return "The query is not a text."
    if len(query) > MOST_CHARACTERS:
        return f"The query has {len(query)} characters; at most {MOST_CHARACTERS} are allowed."
    try:
        document = parse(query, no_location=True)
    except (GraphQLError, RecursionError):
        return None
    count = _Count(document)
    for definition in document.definitions:
        if isinstance(definition, OperationDefinitionNode):
            if read_only and definition.operation is OperationType.MUTATION:
                return "You may look, but not change anything."
            fields, aliases = count.of(definition.selection_set)
            aliases = max(aliases, len(definition.selection_set.selections))
            if fields > MOST_FIELDS:
                return f"The query has {fields} fields; at most {MOST_FIELDS} are allowed."
            if aliases > MOST_ALIASES:
                return f"The query has {aliases} aliases or top-level fields; at most {MOST_ALIASES} are allowed."
    return None


def main() -> None:
    """Run the webserver."""
    app.DagsterWebserver = LimitedWebserver  # type: ignore[attr-defined]  # the class that its command uses
    dagster_webserver.main(
        sys.argv[1:], prog_name="crucible_dagster.service.webserver", auto_envvar_prefix="DAGSTER_WEBSERVER"
    )


class LimitedWebserver(DagsterWebserver[Any, Any]):
    """Refuses queries that are too large. Of its own failures, it tells only the kind; the rest is in its log."""

    async def gen_graphql_response(
        self, request_context: Any, query: Any, variables: dict[str, Any] | None, operation_name: str | None
    ) -> JSONResponse:
        refused = refusal_of(query, read_only=request_context.read_only)
        if refused is not None:
            return JSONResponse({"data": None, "errors": [{"message": refused}]}, status_code=400)
        failures: list[Exception] = []
        _failures.set(failures)
        answer = await super().gen_graphql_response(request_context, query, variables, operation_name)
        if answer.status_code < 500:
            return answer
        reference = secrets.token_hex(4)
        for failure in failures:
            _log.error("failure %s", reference, exc_info=failure)
        kinds = ", ".join(dict.fromkeys(type(failure).__name__ for failure in failures))
        message = f"The webserver failed{f' ({kinds})' if kinds else ''}. See failure {reference} in its log."
        return JSONResponse({"data": None, "errors": [{"message": message}]}, status_code=answer.status_code)

    async def execute_graphql_subscription(
        self,
        websocket: Any,
        operation_id: str,
        query: Any,
        variables: dict[str, Any] | None,
        operation_name: str | None,
    ) -> Any:
        refused = refusal_of(query)
        if refused is not None:
            return None, {"message": refused}
        return await super().execute_graphql_subscription(websocket, operation_id, query, variables, operation_name)

    def handle_graphql_errors(self, errors: Sequence[GraphQLError]) -> list[Any]:
        return [error.formatted for error in errors]

    def _determine_status_code(
        self, resolver_errors: list[GraphQLError] | None, captured_errors: list[Exception]
    ) -> int:
        originals = [error.original_error for error in resolver_errors or () if error.original_error is not None]
        _failures.get().extend([*originals, *captured_errors])
        return super()._determine_status_code(resolver_errors, captured_errors)


class _Count:
    """Counts fields and aliases of a selection; those of a fragment count at each use, but are computed once."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)
        }
        self._known: dict[str, tuple[int, int]] = {}

    def of(self, selections: SelectionSetNode | None) -> tuple[int, int]:
        fields = aliases = 0
        for one in selections.selections if selections is not None else ():
            if isinstance(one, FragmentSpreadNode):
                more, others = self._of_fragment(one.name.value)
            else:
                more, others = self.of(getattr(one, "selection_set", None))
            if isinstance(one, FieldNode):
                more, others = more + 1, others + (one.alias is not None)
            fields, aliases = fields + more, aliases + others
        return fields, aliases

    def _of_fragment(self, name: str) -> tuple[int, int]:
        if name not in self._known:
            self._known[name] = 0, 0  # the rules of GraphQL refuse a fragment that contains itself
            fragment = self._fragments.get(name)
            self._known[name] = self.of(None if fragment is None else fragment.selection_set)
        return self._known[name]


if __name__ == "__main__":
    main()
