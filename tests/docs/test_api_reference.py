"""The API reference has every public name, once, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))


def public_names(package: str) -> list[str]:
    """What the package's `__all__` says, without importing it."""
    module = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    (names,) = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return sorted(f"{package}.{name}" for name in names if name != "__version__")


def names_on(page: Path) -> list[str]:
    """A name that a module has too stands there with its module: `crucible_core.progress.progress`."""
    return [re.sub(r"\b(\w+)\.\1$", r"\1", name) for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_reference_has_the_public_names_of_its_packages(page: Path) -> None:
    packages = {name.rpartition(".")[0] for name in names_on(page)}
    assert page.stem in packages
    assert sorted(names_on(page)) == sorted(name for package in packages for name in public_names(package))


def test_no_name_of_the_reference_is_taken_for_the_module_that_is_called_like_it() -> None:
    named = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
    assert [name for name in named if (ROOT / f"{name.replace('.', '/')}.py").exists()] == []
