"""Alembic reads a folder of migrations once in a process, and not whenever Dagster opens storage."""

from __future__ import annotations

from alembic.config import Config
from alembic.script import ScriptDirectory

__all__ = ["read_migration_scripts_once"]


def read_migration_scripts_once() -> None:
    """Have Alembic keep what it read of a folder of migrations.

    Dagster asks for the newest one whenever it opens storage, or a file of events for a run, and Alembic then imports a
    hundred scripts: two thirds of what it costs to open SQLite. Nothing else about storage is changed.
    """
    read = ScriptDirectory.from_config
    kept: dict[str | None, ScriptDirectory] = {}

    def from_config(config: Config) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in kept:
            kept[place] = read(config)
        return kept[place]

    ScriptDirectory.from_config = staticmethod(from_config)  # type: ignore[assignment,method-assign]
