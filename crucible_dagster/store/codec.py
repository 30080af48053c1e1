r"""How a value becomes bytes and comes back as the same value, with pickle only where a value needs it.

| codec    | for                                                              | what it keeps |
| -------- | ---------------------------------------------------------------- | ------------------------------------- |
| `json`   | None, bool, int, finite float, str, lists and dicts of these     | JSON text |
| `tagged` | also tuples, sets, bytes, NaN, dates, paths, Decimal, UUID,      | JSON text in which `{"$tuple": [...]}` |
|          | other keys than text, numpy arrays and scalars, series           | is a tuple; large arrays beside it |
| `pickle` | everything else                                                  | protocol 5; its out-of-band buffers   |
|          |                                                                  | beside it |

Types are exact: a subclass of dict does not count as a dict. A value that contains the same list or dict in two places
is pickled, because JSON would make two of it.
"""

from __future__ import annotations

import base64
import functools
import gc
import hashlib
import io
import itertools
import json
import marshal
import math
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple
from uuid import UUID

from pydantic_core import from_json, to_json

from crucible_core.beside import name_of_stored
from crucible_core.values.series import Series

__all__ = ["Codec", "Encoded", "classes_in_pickle", "decode", "encode", "exact_digest"]

Codec = Literal["json", "tagged", "pickle"]

# A smaller buffer is kept with its value: a separate file would cost more than it saves.
MIN_BUFFER = 16 * 1024
# By default, Python does not convert longer integers from or to decimal text.
MAX_DECIMAL_BITS = 14_000


class Encoded(NamedTuple):
    """The bytes of a value: its text or pickle, and the large blocks of memory beside it, which are not copied."""

    codec: Codec
    head: bytes
    buffers: tuple[memoryview, ...] = ()
    exact: bytes | None = None
    """`exact_digest` of the value, or None. Computing it takes a fifth of the time of encoding."""


class _Unfit(Exception):
    """The value needs another codec."""


def encode(value: Any) -> Encoded:
    """Encode with the first codec that preserves the value exactly.

    Raises whatever pickle raises for a value that cannot be pickled.
    """
    plain = _plain(value)
    if plain is not None:
        return Encoded("json", plain[0], exact=plain[1])
    try:
        buffers: list[memoryview] = []
        tagger = _Tagger(buffers)
        tagged = tagger.tag(value)
        exact = exact_digest(value) if tagger.is_exact else None
        return Encoded("tagged", json.dumps(tagged, separators=(",", ":")).encode(), tuple(buffers), exact)
    except (_Unfit, RecursionError):
        return _pickled(value)


def decode(codec: str, head: bytes, buffers: Sequence[memoryview], folder: Path | None = None) -> Any:
    """Decode the value. `buffers` become its memory: changing them changes the value.

    `folder` is the folder of the value's experiment file: its classes may be in modules there.

    Raises ValueError for bytes that no codec wrote, and whatever unpickling raises.
    """
    match codec:
        case "json":
            return from_json(head)
        case "tagged":
            return _untag(json.loads(head), buffers)
        case "pickle":
            return _Unpickler(head, buffers, folder).load()  # the store has checked that pickles are allowed
    raise ValueError(f"there is no codec {codec!r}")


# --- plain JSON ------------------------------------------------------------------------------------------------------


def exact_digest(value: Any) -> bytes | None:
    """A digest of a value of lists, dicts, tuples, sets and scalars, which tells types apart; None for other values."""
    try:
        # Version 2 of marshal gives equal bytes for equal values.
        return hashlib.sha256(marshal.dumps(value, 2)).digest() if type(value) in _MARSHALLED else None
    except ValueError:
        return None


def _plain(value: Any) -> tuple[bytes, bytes] | None:
    """JSON text from which exactly this value can be read, and its `exact_digest`; else None. The work is done in C."""
    if type(value) not in _JSON:
        return None
    try:
        text: bytes = to_json(value, inf_nan_mode="null")
        # Digests are compared, so that a large value is not in memory four times at once.
        exact = exact_digest(value)
        if exact is None or exact_digest(from_json(text)) != exact or _shares(value):
            return None
    except (ValueError, TypeError, RecursionError):  # pydantic's errors of serialization are ValueErrors
        return None
    return text, exact


# Other types need not be tried; also, marshal would copy the memory of an array.
_JSON = frozenset({type(None), bool, int, float, str, list, dict})
_MARSHALLED = _JSON | {tuple, set, frozenset, bytes, complex}


def _shares(value: Any) -> bool:
    """Whether a value of lists and dicts contains the same list or dict in two places."""
    level = [value] if type(value) is list or type(value) is dict else []
    ids: set[int] = set()
    count = 0
    while level:
        ids.update(map(id, level))
        count += len(level)
        if len(ids) != count:
            return True
        level = [inner for inner in gc.get_referents(*level) if type(inner) is list or type(inner) is dict]
    return False


# --- tagged JSON -----------------------------------------------------------------------------------------------------

_PATHS: Mapping[str, type[PurePath]] = {one.__name__: one for one in (PosixPath, PurePosixPath, PureWindowsPath)}


class _Tagger:
    def __init__(self, buffers: list[memoryview]) -> None:
        self.buffers = buffers
        self.seen: set[int] = set()
        self.is_exact = True
        """Whether the value contains nothing that marshal refuses or confuses with something else."""

    def tag(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return _whole(value)
        if kind is int:
            return value if value.bit_length() < MAX_DECIMAL_BITS else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind in _MUTABLE or self._is_array(value):
            if id(value) in self.seen:
                raise _Unfit
            self.seen.add(id(value))
        if kind is list:
            return [self.tag(item) for item in value]
        if kind is dict or kind is tuple or kind is set or kind is frozenset:
            return self._tag_collection(kind, value)
        return self._tag_scalar(kind, value)

    def _tag_collection(self, kind: type, value: Any) -> Any:
        if kind is dict:
            if all(type(key) is str and not key.startswith("$") for key in value):
                return {_whole(key): self.tag(item) for key, item in value.items()}
            return {"$dict": [[self.tag(key), self.tag(item)] for key, item in value.items()]}
        if kind is tuple:
            return {"$tuple": [self.tag(item) for item in value]}
        return {f"${kind.__name__}": sorted((self.tag(item) for item in value), key=json.dumps)}

    def _tag_scalar(self, kind: type, value: Any) -> Any:
        simple = _SIMPLE.get(kind)
        if kind is not bytes and kind is not complex:
            self.is_exact = False
        if simple is not None:
            return {f"${kind.__name__}": simple(value)}
        if kind is complex:
            return {"$complex": [self.tag(value.real), self.tag(value.imag)]}
        if kind is datetime and value.fold == 0 and (value.tzinfo is None or value.tzinfo is UTC):
            return {"$datetime": value.isoformat()}
        if kind is Series:
            steps, values = value.columns()
            kept = list(steps) if isinstance(steps, tuple) else self._block(steps)
            return {"$series": [kept, self._block(values)]}
        if kind.__name__ in _PATHS and kind is _PATHS[kind.__name__]:
            return {"$path": [kind.__name__, str(value)]}
        return self._tag_numpy(value)

    def _is_array(self, value: Any) -> bool:
        numpy = sys.modules.get("numpy")
        return numpy is not None and type(value) is numpy.ndarray

    def _tag_numpy(self, value: Any) -> Any:
        numpy: Any = sys.modules.get("numpy")
        if numpy is None or not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
            raise _Unfit
        dtype = value.dtype
        described = _described_dtype(dtype)
        if described is None:
            raise _Unfit
        if type(value) is not numpy.ndarray:
            # Text of numpy has no empty items and loses what looks like padding; and some types share a description.
            if dtype.names or dtype.kind in "US" or type(value) is not numpy.dtype(described).type:
                raise _Unfit
            return {"$scalar": [described, base64.b64encode(value.tobytes()).decode()]}
        fortran = bool(value.flags.f_contiguous and not value.flags.c_contiguous)
        flat = (value.T if fortran else numpy.ascontiguousarray(value)).reshape(-1)
        block = memoryview(flat.view(numpy.uint8)) if flat.nbytes else memoryview(b"")
        return {"$array": [described, list(value.shape), fortran, bool(value.flags.writeable), self._block(block)]}

    def _block(self, block: memoryview) -> str | int:
        """The bytes as text or, if they are many, their index among the buffers."""
        if block.nbytes < MIN_BUFFER:
            return base64.b64encode(block).decode()
        self.buffers.append(block)
        return len(self.buffers) - 1


def _described_dtype(dtype: Any) -> Any:
    """A description from which numpy makes the same dtype again; None if there is none."""
    if dtype.hasobject or dtype.metadata or dtype.isalignedstruct:
        return None
    return _descr_of_dtype(dtype)


@functools.lru_cache(maxsize=256)
def _descr_of_dtype(dtype: Any) -> Any:
    numpy: Any = sys.modules["numpy"]
    described = numpy.lib.format.dtype_to_descr(dtype)
    if json.loads(json.dumps(described)) != described and not isinstance(described, list):
        return None
    if numpy.lib.format.descr_to_dtype(_descr(json.loads(json.dumps(described)))) != dtype:
        return None
    return described


def _whole(text: str) -> str:
    """The text, unless it has halves of surrogate pairs: JSON would join them to one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Unfit from None
    return text


_MUTABLE = frozenset({list, dict, set, bytearray})


def _b64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


_SIMPLE: Mapping[type, Callable[[Any], Any]] = {
    bytes: _b64,
    bytearray: _b64,
    date: date.isoformat,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    Decimal: str,
    Fraction: str,
    UUID: str,
}


def _untag(tagged: Any, buffers: Sequence[memoryview]) -> Any:
    if type(tagged) is list:
        return [_untag(item, buffers) for item in tagged]
    if type(tagged) is not dict:
        return tagged
    if len(tagged) == 1:
        ((tag, content),) = tagged.items()
        if tag.startswith("$"):
            return _UNTAG[tag](content, buffers)
    return {key: _untag(item, buffers) for key, item in tagged.items()}


def _untag_array(content: Any, buffers: Sequence[memoryview]) -> Any:
    import numpy  # noqa: PLC0415  # only where an array is read

    described, shape, fortran, writeable, kept = content
    block = _block_of(kept, buffers)
    dtype = numpy.lib.format.descr_to_dtype(_descr(described))
    if dtype.itemsize == 0 or not len(block):
        return numpy.empty(shape, dtype)
    flat = numpy.frombuffer(block, dtype=dtype)
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    if not writeable:
        array.flags.writeable = False
    return array


def _untag_series(content: Any, buffers: Sequence[memoryview]) -> Series:
    steps, values = content
    kept = (steps[0], steps[1]) if isinstance(steps, list) else _block_of(steps, buffers)
    return Series.of_columns(kept, _block_of(values, buffers))


def _block_of(kept: str | int, buffers: Sequence[memoryview]) -> Any:
    return bytearray(base64.b64decode(kept)) if isinstance(kept, str) else buffers[kept]


def _untag_scalar(content: Any, _: Sequence[memoryview]) -> Any:
    import numpy  # noqa: PLC0415

    described, text = content
    return numpy.frombuffer(base64.b64decode(text), dtype=numpy.lib.format.descr_to_dtype(_descr(described)))[0]


def _descr(described: Any) -> Any:
    """The description of a dtype by numpy, with tuples again where JSON has lists."""
    if not isinstance(described, list):
        return described
    return [
        (tuple(field[0]) if isinstance(field[0], list) else field[0], _descr(field[1]), *map(_shape, field[2:]))
        for field in described
    ]


def _shape(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_UNTAG: Mapping[str, Callable[[Any, Sequence[memoryview]], Any]] = {
    "$int": lambda content, _: int(content, 16),
    "$float": lambda content, _: float(content),
    "$dict": lambda content, buffers: {_untag(key, buffers): _untag(item, buffers) for key, item in content},
    "$tuple": lambda content, buffers: tuple(_untag(item, buffers) for item in content),
    "$set": lambda content, buffers: {_untag(item, buffers) for item in content},
    "$frozenset": lambda content, buffers: frozenset(_untag(item, buffers) for item in content),
    "$complex": lambda content, buffers: complex(*(_untag(part, buffers) for part in content)),
    "$bytes": lambda content, _: base64.b64decode(content),
    "$bytearray": lambda content, _: bytearray(base64.b64decode(content)),
    "$datetime": lambda content, _: datetime.fromisoformat(content),
    "$date": lambda content, _: date.fromisoformat(content),
    "$timedelta": lambda content, _: timedelta(*content),
    "$Decimal": lambda content, _: Decimal(content),
    "$Fraction": lambda content, _: Fraction(content),
    "$UUID": lambda content, _: UUID(content),
    "$path": lambda content, _: _PATHS[content[0]](content[1]),
    "$scalar": _untag_scalar,
    "$array": _untag_array,
    "$series": _untag_series,
}


# --- pickle ----------------------------------------------------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    def __init__(self, head: bytes, buffers: Sequence[memoryview], folder: Path | None) -> None:
        super().__init__(io.BytesIO(head), buffers=buffers)
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(name_of_stored(module, self._folder), name)


def _pickled(value: Any) -> Encoded:
    buffers: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            block = buffer.raw()
        except BufferError:  # its memory is not contiguous
            return True
        if block.nbytes < MIN_BUFFER:
            return True
        buffers.append(block)
        return False

    stream = io.BytesIO()
    pickle.Pickler(stream, protocol=5, buffer_callback=keep_in_band).dump(value)
    return Encoded("pickle", stream.getvalue(), tuple(buffers))


def classes_in_pickle(head: bytes) -> frozenset[tuple[str, str]]:
    """Module and name of each class and function that a pickle refers to. Nothing is imported or called.

    Raises whatever unpickling raises for a pickle that cannot be followed in this way.
    """
    reader = _ClassReader(io.BytesIO(head), buffers=itertools.repeat(b""))
    reader.load()
    return frozenset(reader.found)


class _Anything:
    """Stands for every class and object while a pickle is looked through."""

    def __new__(cls, *_: Any, **__: Any) -> _Anything:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Anything:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def add(self, _: Any) -> None:
        pass


class _ClassReader(pickle.Unpickler):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.found: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.found.add((module, name))
        return _Anything
