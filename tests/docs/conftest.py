"""What the tests of the recipes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import DagsterInstance

from crucible_dagster import open_instance


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """The instance of a person who runs a recipe on Dagster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("home")))
        with open_instance() as instance:
            yield instance
