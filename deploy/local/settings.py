"""The settings: compose's .env, the environment, and values that `make up` chooses if neither has them."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEPLOY", "ROOT", "Settings", "UsageError", "write_private"]

DEPLOY = Path(__file__).resolve().parent.parent
ROOT = DEPLOY.parent
EXAMPLES = ROOT / "examples"

_LINE = re.compile(
    r"""^(?:export\s+)?(?P<name>\w+)\s*=\s*(?:'(?P<raw>[^']*)'|"(?P<text>[^"]*)"|(?P<bare>.*?))\s*(?:\s#.*)?$"""
)
# Secrets that compose requires; here they are generated once if they are not given.
_MADE = ("DAGSTER_PG_PASSWORD", "CRUCIBLE_REDIS_PASSWORD")

_PATHS = ("CRUCIBLE_EXPERIMENTS_FOLDER", "CRUCIBLE_TLS_CERTIFICATE", "CRUCIBLE_TLS_KEY")


class UsageError(Exception):
    """The command cannot be done; the message says why, and what to do."""


@dataclass(frozen=True)
class Settings:
    """The folder for all files, and the values that compose.yaml uses."""

    folder: Path
    values: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path, file: Path) -> Settings:
        """The settings of a .env file; as with compose, the environment takes precedence.

        Raises UsageError if a line of the file is not NAME=VALUE.
        """
        values = _read_env(file) if file.exists() else {}
        values |= {name: value for name, value in os.environ.items() if name.startswith(("CRUCIBLE_", "DAGSTER_PG_"))}
        values |= {"COMPOSE_PROFILES": os.environ.get("COMPOSE_PROFILES") or values.get("COMPOSE_PROFILES", "")}
        made = _secrets_of(folder)
        values |= {name: values.get(name) or made[name] for name in _MADE}
        if not values.get("CRUCIBLE_EXPERIMENTS_FOLDER"):
            values["CRUCIBLE_EXPERIMENTS_FOLDER"] = str(EXAMPLES)
            modules = ",".join(sorted(path.stem for path in EXAMPLES.rglob("*.py")))
            values["CRUCIBLE_IMPORTABLE"] = values.get("CRUCIBLE_IMPORTABLE") or modules
        for name in _PATHS:
            if values.get(name):
                values[name] = str((file.parent / values[name]).resolve())
        return cls(folder, values)

    @property
    def profiles(self) -> frozenset[str]:
        """The compose profiles: their services are started in addition."""
        return frozenset(filter(None, re.split(r"[,\s]+", self.values["COMPOSE_PROFILES"])))

    def interpolated(self, text: str) -> str:
        """A value of compose.yaml with its variables replaced."""
        return _VARIABLE.sub(self._value, text)

    def _value(self, found: re.Match[str]) -> str:
        if found["name"] is None:
            return "$"
        given = self.values.get(found["name"], "")
        if found["kind"] == "+":
            return found["other"] if given else ""
        return given or (found["other"] or "" if found["kind"] == "-" else "")


_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::?(?P<kind>[-?+])(?P<other>[^}]*))?\}")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; it is written completely or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def _read_env(file: Path) -> dict[str, str]:
    values = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            found = _LINE.match(line.strip())
            if found is None:
                raise UsageError(f"{file}:{number}: not NAME=VALUE")
            values[found["name"]] = found["raw"] or found["text"] or found["bare"] or ""
    return values


def _secrets_of(folder: Path) -> dict[str, str]:
    file = folder / "secrets.json"
    made: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    missing = {name: secrets.token_hex(16) for name in _MADE if name not in made}
    if missing:
        made |= missing
        write_private(file, json.dumps(made))
    return made
