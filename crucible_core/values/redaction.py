"""The one place where secrets are taken out of a text: before it is shown, logged or kept.

A secret is what a stage's secret options hold; what the environment holds under a name that says so (`API_TOKEN`,
`PGPASSWORD`, `AWS_SECRET_ACCESS_KEY`); the password in a URL of the environment; and, whatever its value, what a text
itself marks as one: `scheme://user:password@host`, `?token=...`, `password=...`, `Bearer ...`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote

from crucible_core.values import MASK, MAX_DEPTH

__all__ = ["masked", "scrub", "secrets_of_environment"]


class KnowsSecrets(Protocol):
    """An attempt at a stage, which knows the secrets of the stage's options."""

    @property
    def run_id(self) -> str: ...
    @property
    def readable(self) -> Callable[[str], str]: ...


SHORTEST: Final = 8
"""Shorter values of the environment occur in any text by chance."""
LONGEST_WORD: Final = 16
"""A value that is one plain word, such as `crucible`, is looked for only if it has at least this length."""

_ENDINGS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY", "CREDENTIAL", "CREDENTIALS")
_WORDS = {"KEY", "KEYS", "PASS", "TOKENS", "SECRETS", "PASSWORDS", "DSN"}
# Endings after such a word that make the whole the name of something that is not secret.
_OPEN = {"FILE", "PATH", "DIR", "ID", "NAME", "URL", "URI", "SOCK", "TYPE", "PUBLIC", "ENABLED", "TIMEOUT", "TTL"}

_PLAIN_WORD = re.compile(r"[A-Za-z][a-z]*|[A-Z]+")
# Each begins with something rare, and no two parts take the same characters: the time is linear in any text.
_IN_URL = re.compile(r"://([^\s/?#:@\"'<>]*):([^\s/?#\"'<>]+)@")
_ALONE_IN_URL = re.compile(r"://([^\s/?#:@\"'<>]{16,})@")
_IN_QUERY = re.compile(r"([?&;][\w.%-]{1,60}=)([^\s&;#\"'<>)\]}]{4,})")
_SAID = re.compile(
    r"(?i)(\b(?:password|passwd|passphrase|secret|client_secret|api_?key|secret_access_key|access_token|auth_token)"
    r"=['\"]?)([^\s&;,'\"()\]}]{4,})"
)
_HEADER = re.compile(r"(?i)(\b(?:bearer|basic)\s+)((?=[\w.~+/=-]{0,200}\d)[\w.~+/=-]{16,})")
_QUERY_NAME = re.compile(
    r"(?i)token|secret|passw|passphrase|api_?key|signature|credential|(?:^|[^a-z])(?:sig|key|pwd|auth|code)$"
)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with masks in the place of `secrets` (the longest first), of the environment's, and of marked ones.

    A secret is also found where it is written as in Python, in JSON or in a URL.
    """
    for secret in (*secrets, *secrets_of_environment()):
        if secret and secret in text:
            text = text.replace(secret, MASK)
        for written in _written(secret):
            if written in text:
                text = text.replace(written, MASK)
    if "://" in text:
        text = _ALONE_IN_URL.sub(f"://{MASK}@", _IN_URL.sub(rf"://\1:{MASK}@", text))
    if "=" in text:
        text = _SAID.sub(rf"\1{MASK}", _IN_QUERY.sub(_query, text))
    return _HEADER.sub(rf"\1{MASK}", text)


def masked(value: Any, attempt: KnowsSecrets | None = None, run_id: str = "") -> Any:
    """The value with masks in every text in it: a text, or lists, tuples and mappings that hold some.

    Any other object is left as it is; so is a value with nothing to mask, which is returned itself. The secrets of a
    stage's options are known to the running attempt at the stage, if it is of the run.
    """
    return _masked(value, attempt.readable if attempt is not None and attempt.run_id == run_id else scrub)


def _masked(value: Any, readable: Callable[[str], str], above: tuple[int, ...] = ()) -> Any:
    if len(above) > MAX_DEPTH or id(value) in above:  # at greater depth, and in a value that contains itself,
        return value  # nothing is shown
    inside = (*above, id(value))
    match value:
        case str() if type(value) is str:
            found = readable(value)
            return found if MASK in found and found != value else value
        case dict() if type(value) is dict:
            entries = {name: _masked(one, readable, inside) for name, one in value.items()}
            return entries if any(entries[name] is not one for name, one in value.items()) else value
        case list() | tuple() if type(value) in {list, tuple}:
            items = [_masked(one, readable, inside) for one in value]
            return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
        case _:
            return value


def secrets_of_environment() -> tuple[str, ...]:
    """The secrets that the environment holds now, the longest first."""
    # Decoding all of it takes a hundred microseconds, and every text needs it. So the bytes behind it, where Python has
    # them, tell whether it has changed.
    raw = getattr(os.environ, "_data", None)
    if raw is None or raw != _last[0]:
        _last[:] = [dict(raw or {}), _secrets_in(os.environ)]
    found: tuple[str, ...] = _last[1]
    return found


_last: list[Any] = [None, ()]


def _secrets_in(environment: Mapping[str, str]) -> tuple[str, ...]:
    found = set()
    for name, value in environment.items():
        if _is_secret_name(name):
            found.add(value.strip())
        for _, password in _IN_URL.findall(value):
            found |= {password, unquote(password)}
    return tuple(sorted(filter(_can_be_found, found), key=len, reverse=True))


@functools.lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    words = name.upper().split("_")
    said = any(word.endswith(_ENDINGS) or word in _WORDS for word in words)
    return said and words[-1] not in _OPEN


def _can_be_found(value: str) -> bool:
    if len(value) < SHORTEST or (value.startswith("/") and os.path.exists(value)):  # noqa: PTH110  # any text
        return False
    return len(value) >= LONGEST_WORD or not _PLAIN_WORD.fullmatch(value)


@functools.lru_cache(maxsize=256)
def _written(secret: str) -> tuple[str, ...]:
    """How it is written in Python, in JSON and in a URL, where that differs from the secret itself."""
    found = {repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    with contextlib.suppress(UnicodeEncodeError):  # a URL has no half surrogates
        found |= {quote(secret), quote(secret, safe="")}
    return tuple(found - {secret})


def _query(found: re.Match[str]) -> str:
    return f"{found[1]}{MASK}" if _QUERY_NAME.search(found[1][1:-1]) else found[0]
