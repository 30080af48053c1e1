"""YAML and JSON text to data: guarded against bombs, with the place of every value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from crucible_core.errors import InvalidExperimentError, Location

MAX_DEPTH = 50


MAX_VALUES = 50_000


MAX_ALIASES = 100


MAX_SCALAR = 100_000


MAX_SECOND_TRY = 20_000
"""The most characters that the slow Python parser is given: half a second at most, whatever they are."""


Place = tuple[str | int, ...]


Positions = dict[Place, tuple[int, int]]


def parse_json(text: str, shown: str) -> Any:
    def refuse(reason: str) -> NoReturn:
        raise InvalidExperimentError(reason, location=Location(shown))

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in items:
            if key in mapping:
                _find_in_json(text, shown)
                refuse(f"the key {key!r:.80} occurs twice in one mapping")
            mapping[key] = value
        return mapping

    try:
        data = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_constant=lambda name: refuse(f"{name} is not a JSON number; numbers in an experiment are finite"),
        )
    except json.JSONDecodeError as error:
        raise InvalidExperimentError(
            f"this file is not valid JSON: {error.msg}", location=Location(shown, error.lineno, error.colno)
        ) from None
    except RecursionError:
        refuse(f"is nested more than {MAX_DEPTH} deep")
    except ValueError as error:  # an integer of more digits than Python converts
        raise InvalidExperimentError(f"this file is not valid JSON: {error}", location=Location(shown)) from None
    _check_size(data, refuse)
    return data


def _check_size(data: Any, refuse: Callable[[str], NoReturn]) -> None:
    level, values = [data], 0
    for depth in range(MAX_DEPTH + 2):
        if not level:
            return
        if depth > MAX_DEPTH:
            refuse(f"is nested more than {MAX_DEPTH} deep")
        values += len(level)
        if values > MAX_VALUES:
            refuse(f"holds more than {MAX_VALUES:,} values")
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]


def json_positions(text: str) -> Positions:
    try:
        return _find_in_json(text, "")
    except InvalidExperimentError:
        return {}


def _find_in_json(text: str, shown: str) -> Positions:
    """Read JSON as YAML, which records positions, and raises for a key that occurs twice, with its position."""
    # YAML has no surrogate pairs: their escapes are replaced by as many other characters.
    readable = re.sub(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", "surrog", text)
    try:
        return _Builder(shown).build(_events(readable, shown, pure=False))[1]
    except _Unparsable:
        return {}


class _Unparsable(Exception):
    """One parser cannot read the text; another one may be tried next."""

    def __init__(self, reason: str, location: Location) -> None:
        super().__init__(reason)
        self.location = location

    def of(self, subject: str) -> InvalidExperimentError:
        return InvalidExperimentError(f"{subject} is not valid YAML: {self}", location=self.location)


def parse_yaml(
    text: str, shown: str, number: int | None = None, *, subject: str = "this file"
) -> tuple[Any, Positions]:
    try:
        return _Builder(shown).build(_events(text, shown, number, pure=False))
    except _Unparsable as error:
        # The C parser cannot read all of YAML 1.2, for example `{module: package.module:Stage}`. The Python parser
        # can, but is thirteen times slower: it is tried second, and only on texts that are small enough.
        if len(text) > MAX_SECOND_TRY:
            raise error.of(subject) from None
    try:
        return _Builder(shown).build(_events(text, shown, number, pure=True))
    except _Unparsable as error:
        raise error.of(subject) from None


_KINDS: Mapping[str, tuple[str, type]] = {
    "[": ("a list", list),
    "{": ("a mapping", dict),
    '"': ("a quoted text", str),
    "'": ("a quoted text", str),
}


def is_flow(text: str) -> bool:
    """Whether the text begins like a list, a mapping or a quoted text on one line of YAML."""
    return text[:1] in _KINDS


def parse_flow(text: str) -> Any:
    """A list, mapping or quoted text, without comments. Raises ValueError, worded for the user, for anything else."""
    what, kind = _KINDS[text[0]]
    reason = ""
    try:
        # In brackets and on one line: a comment would hide the last bracket.
        (value,) = parse_yaml(f"[{text}]".replace("\n", " "), "")[0]
    except InvalidExperimentError as error:
        reason = f": {error.message.removeprefix('is not valid YAML: ')}"
    except ValueError:  # several values
        pass
    else:
        if isinstance(value, kind):
            return value
    raise ValueError(f"{text!r:.80} begins like {what}, and is not valid YAML{reason}; put quotes around a text")


def _events(text: str, shown: str, number: int | None = None, *, pure: bool) -> Iterator[Any]:
    from ruamel.yaml import YAML  # noqa: PLC0415  # experiments made in code do not need YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415

    yaml = YAML(typ="safe", pure=pure)
    if pure:
        yaml.Scanner = _scanner(shown)
    try:
        events = yaml.parse(text)
        yield from events if number is None else _of_document(events, number)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Location(shown, mark.line + 1, mark.column + 1) if mark else Location(shown)
        reason = ", ".join(part for part in (error.problem, error.context) if part)
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        raise _Unparsable(_frequent_mistake(line, reason) or reason, at) from None
    except (YAMLError, UnicodeError, ValueError) as error:
        raise _Unparsable(str(error).splitlines()[0], Location(shown)) from None


def _scanner(shown: str) -> type:
    """The scanner of the Python parser, which refuses brackets that are nested too deep as it meets them.

    Otherwise it reads a thousand more before the builder sees the first, in a time that grows with their square.
    """
    from ruamel.yaml.scanner import Scanner  # noqa: PLC0415  # as above

    class Bounded(Scanner):
        def fetch_flow_collection_start(self, *given: Any, **named: Any) -> None:
            if len(self.flow_context) >= MAX_DEPTH:
                mark = self.reader.get_mark()
                at = Location(shown, mark.line + 1, mark.column + 1)
                raise InvalidExperimentError(f"nested more than {MAX_DEPTH} deep", location=at)
            super().fetch_flow_collection_start(*given, **named)

    return Bounded


def _frequent_mistake(line: str, reason: str) -> str | None:
    """What is wrong with the line of a parser's error, in words that say what to do."""
    if "\t" in line[: len(line) - len(line.lstrip())] or ("\t" in line and "cannot start any token" in reason):
        return "there is a tab before or in this line's text; use spaces"
    if "mapping values are not allowed" in reason and (found := re.fullmatch(r"\s*(?:- +)*([^\s:]+): +(\S.*)", line)):
        return f"a text with a colon must be quoted: {found[1]}: {json.dumps(found[2].rstrip(), ensure_ascii=False)}"
    return None


def _of_document(events: Iterator[Any], number: int) -> Iterator[Any]:
    current = -1
    for event in events:
        current += type(event).__name__ == "DocumentStartEvent"
        if current == number:
            yield event
        elif current > number:
            return


@dataclass(slots=True)
class _Open:
    """A sequence or mapping that has not ended yet."""

    value: Any
    place: Place
    anchor: str | None
    values_before: int
    key: str | None = None
    next_is_key: bool = False


@dataclass(slots=True)
class _Builder:
    """Builds plain data from parser events with a stack of its own: no recursion, every limit checked on the way."""

    shown: str
    positions: Positions = field(default_factory=dict)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    stack: list[_Open] = field(default_factory=list)
    root: Any = None
    values: int = 0
    aliases: int = 0
    documents: int = 0

    def build(self, events: Iterator[Any]) -> tuple[Any, Positions]:
        # The events' classes differ between the C and the Python parser by module, not by name.
        for event in events:
            match type(event).__name__:
                case "ScalarEvent":
                    self._scalar(event)
                case "MappingStartEvent" | "SequenceStartEvent":
                    self._open(event, {} if type(event).__name__ == "MappingStartEvent" else [])
                case "MappingEndEvent" | "SequenceEndEvent":
                    self._close()
                case "AliasEvent":
                    self._alias(event)
                case "DocumentStartEvent":
                    self.documents += 1
                    if self.documents > 1:
                        self._refuse("the file holds a second YAML document; an experiment file holds one", event)
        return self.root, self.positions

    def _refuse(self, reason: str, event: Any) -> NoReturn:
        mark = event.start_mark
        raise InvalidExperimentError(reason, location=Location(self.shown, mark.line + 1, mark.column + 1))

    def _count(self, number: int, event: Any) -> None:
        self.values += number
        if self.values > MAX_VALUES:
            self._refuse(
                f"the file holds more than {MAX_VALUES:,} values (each alias counts as all the values that it repeats)",
                event,
            )

    def _scalar(self, event: Any) -> None:
        self._count(1, event)
        if len(event.value) > MAX_SCALAR:
            self._refuse(f"a value of more than {MAX_SCALAR:,} characters", event)
        self._no_tag(event)
        plain = not event.style or event.style == "plain"
        parent = self.stack[-1] if self.stack else None
        if parent is not None and parent.next_is_key:
            self._key(event.value, plain, event, parent)
            return
        try:
            value = resolve_plain(event.value) if plain else event.value
        except ValueError as error:
            self._refuse(str(error), event)
        if event.anchor:
            self.anchors[event.anchor] = (value, 1)
        self._put(value, event)

    def _key(self, key: str, plain: bool, event: Any, parent: _Open) -> None:
        if key == "<<" and plain:
            self._refuse("merge keys (<<) are not supported; write the values out", event)
        if key in parent.value:
            self._refuse(f"the key {key!r:.80} occurs twice in one mapping", event)
        parent.key, parent.next_is_key = key, False
        self.positions[(*parent.place, key)] = (event.start_mark.line + 1, event.start_mark.column + 1)

    def _no_tag(self, event: Any) -> None:
        if event.tag is not None and str(event.tag) != "!":
            self._refuse(f"YAML tags are not supported: {str(event.tag)!r:.80}", event)

    def _put(self, value: Any, event: Any) -> Place:
        if not self.stack:
            self.root = value
            self.positions[()] = (event.start_mark.line + 1, event.start_mark.column + 1)
            return ()
        parent = self.stack[-1]
        if isinstance(parent.value, list):
            place = (*parent.place, len(parent.value))
            parent.value.append(value)
            self.positions[place] = (event.start_mark.line + 1, event.start_mark.column + 1)
            return place
        assert parent.key is not None
        place = (*parent.place, parent.key)
        parent.value[parent.key] = value
        parent.next_is_key = True
        return place

    def _open(self, event: Any, value: Any) -> None:
        self._count(1, event)
        self._no_tag(event)
        if self.stack and self.stack[-1].next_is_key:
            self._refuse("a key is a single word or text, not a list or mapping", event)
        if len(self.stack) >= MAX_DEPTH:
            self._refuse(f"nested more than {MAX_DEPTH} deep", event)
        place = self._put(value, event)
        self.stack.append(_Open(value, place, event.anchor, self.values - 1, next_is_key=isinstance(value, dict)))

    def _close(self) -> None:
        closed = self.stack.pop()
        if closed.anchor:
            self.anchors[closed.anchor] = (closed.value, self.values - closed.values_before)

    def _alias(self, event: Any) -> None:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            self._refuse(f"more than {MAX_ALIASES} aliases", event)
        if self.stack and self.stack[-1].next_is_key:
            self._refuse("a key is a single word or text, not an alias", event)
        if event.anchor not in self.anchors:
            self._refuse(f"the alias *{event.anchor} has no anchor &{event.anchor} that ends before it", event)
        value, size = self.anchors[event.anchor]
        self._count(size, event)
        # Validation copies what it keeps, so sharing one object here has no effect.
        self._put(value, event)


# YAML 1.2.2, section 10.3.2, "Tag Resolution" of the core schema.
_NULL = {"", "~", "null", "Null", "NULL"}


_TRUE = {"true", "True", "TRUE"}


_FALSE = {"false", "False", "FALSE"}


_INT = re.compile(r"[-+]?[0-9]+")


_OCT = re.compile(r"0o[0-7]+")


_HEX = re.compile(r"0x[0-9a-fA-F]+")


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


# Read as something else by YAML 1.1 readers (Dagster's among them).
_OLD_BOOL = re.compile(r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF")


_OLD_OCTAL = re.compile(r"[-+]?0[0-9_]+")


_OLD_NUMBER = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?)")


_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")


def resolve_plain(text: str) -> Any:
    """The value of a plain scalar. Raises ValueError, worded for the user, if it must be quoted or changed."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    first = text[0]
    if not (first.isdigit() or first in "+-." or first in "yYnNoO"):
        return text
    if _OLD_BOOL.fullmatch(text):
        raise ValueError(f'{text} is a word in YAML 1.2 and a boolean in YAML 1.1: write true, false or "{text}"')
    if _OLD_OCTAL.fullmatch(text):
        raise ValueError(
            f'{text} is decimal in YAML 1.2 and octal in YAML 1.1: write "{text}", or drop the zero, or write 0o...'
        )
    if _DATE.fullmatch(text) or _SEXAGESIMAL.fullmatch(text):
        raise ValueError(
            f'{text:.40} is a text in YAML 1.2 and a date or a number of seconds in YAML 1.1: write "{text}"'
        )
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text}: numbers in an experiment are finite")
    if _INT.fullmatch(text) or _OCT.fullmatch(text) or _HEX.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text:.40} is too large for a number")
        return value
    if _OLD_NUMBER.fullmatch(text):
        raise ValueError(
            f'{text:.40} is a text in YAML 1.2 and a number in YAML 1.1: write "{text:.40}", or plain digits'
        )
    return text


def _integer(text: str) -> int:
    if len(text) > 40:
        raise ValueError(f"a whole number of {len(text)} digits does not fit 64 bits")
    return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
