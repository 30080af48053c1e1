"""The code that a stage can reach: its class and everything that it refers to, as this process has loaded it.

The walk looks at compiled functions and values of globals, not at files: what was loaded is what runs. It starts at
the class and follows every function, class, global, default argument, closure, attribute, base class and decorator
that is referred to and belongs to the project. For an installed package, the version counts. A module that is used in
another way than `module.name` is included as a whole. So is a module with a global whose state cannot be read; then its
source counts too. If the reach cannot be determined at all, as with `eval`, nothing is reused.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import sys
import sysconfig
import time
import types
import typing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo, ModelPrivateAttr
from pydantic_core import PydanticUndefined

from crucible_core import Stage
from crucible_core.beside import find_module, name_of_stored
from crucible_core.values.messages import BESIDE, as_written, error_text
from crucible_dagster.history.source_identity import stage_identity
from crucible_dagster.store.codec import classes_in_pickle, encode, exact_digest

__all__ = ["ReachableCode", "code_hash", "code_of_classes", "code_of_stage"]

OURS = frozenset({"crucible_adapters", "crucible_bench", "crucible_core", "crucible_dagster"})
MAX_PATH = 255
_STARTED = time.time()
_STDLIB = Path(sysconfig.get_path("stdlib"))
_INSTALLED = frozenset({"site-packages", "dist-packages"})


class UnknownReachError(Exception):
    """The code that a stage can reach cannot be determined."""


@dataclass(frozen=True, slots=True)
class ReachableCode:
    """Everything that decides what a stage does, except what it reads."""

    parts: Mapping[str, str]
    """`times in helpers.py` -> its digest; for a global that is a number, the number itself."""
    options: Mapping[str, str]
    """Option or private attribute -> digest of its value in memory, secrets included."""
    environment: frozenset[str]
    """Environment variables that the code names."""
    paths: frozenset[str]
    """Texts in the code and in the options that may be file names; those from Path objects end in a slash."""

    @property
    def digest(self) -> str:
        """A digest of the parts, and of Python's version, which compiles to its own bytecode."""
        return f"py{sys.version_info.major}.{sys.version_info.minor}:{_sha(sorted(self.parts.items()))}"


def code_of_stage(stage: Stage) -> ReachableCode | str:
    """The code that a stage can reach, with its options; or why it cannot be determined."""
    walk = _Walk()
    try:
        walk.stage_class(type(stage))
        private = stage.__pydantic_private__ or {}
        holder = vars(sys.modules[type(stage).__module__])
        options = {name: walk.described(value, holder) for name, value in {**vars(stage), **private}.items()}
    except UnknownReachError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  # the project's objects may raise anything when they are looked at
        return f"its code cannot be followed: {error_text(error)}"
    return walk.found(options)


def code_of_classes(names: Iterable[tuple[str, str]], folder: Path | None = None) -> str | None:
    """A digest of the code of these functions and classes (module, name); None if it cannot be determined.

    `folder` is the folder of the experiment that they were stored for.
    """
    walk = _Walk()
    try:
        for module, name in sorted(names):
            walk.imported(name_of_stored(module, folder), name)
    except Exception:  # noqa: BLE001  # as above
        return None
    return walk.found({}).digest


@functools.lru_cache(maxsize=1024)
def code_hash(code: Any) -> str | None:
    """A digest of the code that a stage's class, or a function, could reach when this process first asked.

    None if that cannot be determined.
    """
    walk = _Walk()
    try:
        if isinstance(code, type) and issubclass(code, Stage):
            walk.stage_class(code)
        else:
            walk.imported(code.__module__, code.__qualname__)
    except Exception:  # noqa: BLE001  # as above
        return None
    return walk.found({}).digest


class _Walk:
    """Follows references, and collects what was reached."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.environment: set[str] = set()
        self.paths: set[str] = set()
        self._seen: dict[int, Any] = {}
        """Id -> object; holding the objects ensures that no other object gets the same id."""
        self._open: set[int] = set()

    def found(self, options: Mapping[str, str]) -> ReachableCode:
        return ReachableCode(self.parts, options, frozenset(self.environment), frozenset(self.paths))

    def stage_class(self, stage: type[Stage]) -> None:
        name, source = stage_identity(stage)
        if source is None:
            raise UnknownReachError(f"the source of {name} cannot be read, or was changed after it was imported")
        if not _is_of_project(vars(sys.modules[stage.__module__])):
            self._add(name, source)
        self.visit(stage, vars(sys.modules[stage.__module__]))

    def imported(self, module: str, name: str) -> None:
        """Visit an object that a pickle names by its module and its name."""
        there = sys.modules.get(module)
        if there is None:
            if not _is_installed(module):
                raise UnknownReachError(f"{as_written(module)} is not imported")
            self._package(module)
            return
        found: Any = there
        for one in name.split("."):
            found = getattr(found, one)
        self.visit(found, vars(there))

    # --- objects ---

    def visit(self, found: Any, holder: dict[str, Any]) -> None:
        """Visit something that code refers to; `holder` has the globals of the referring module."""
        if id(found) in self._seen:
            return
        self._seen[id(found)] = found
        match found:
            case types.ModuleType():
                self._module(found)
            case types.FunctionType():
                self._function(found, holder)
            case type():
                self._class(found)
            case types.BuiltinFunctionType():
                if found.__self__ is not None and not isinstance(found.__self__, types.ModuleType):
                    self.described(found.__self__, holder)
                self._package(found.__module__ or "")
            case _:
                self._add(f"a {type(found).__name__} in {_file(holder)}", self.described(found, holder))

    def _module(self, module: types.ModuleType) -> None:
        namespace = vars(module)
        if not _is_of_project(namespace):
            self._package(module.__name__)
            return
        for name, value in list(namespace.items()):
            if not name.startswith("__"):
                self._global(name, value, namespace)

    def _global(self, name: str, value: Any, holder: dict[str, Any]) -> None:
        if _is_code(value):
            self.visit(value, holder)
        else:
            simple = type(value) in {bool, int, float, type(None)}
            self._add(f"{name} in {_file(holder)}", repr(value) if simple else self.described(value, holder))

    def _whole(self, holder: dict[str, Any]) -> None:
        """Add a whole module, because something in it cannot be described: its source and all its references."""
        file = holder.get("__file__")
        module = sys.modules.get(holder.get("__name__", ""))
        try:
            if file is None or module is None or os.stat(file).st_mtime > _STARTED:  # noqa: PTH116
                raise UnknownReachError(f"a global of {_file(holder)} cannot be looked into")
            name = f"the whole of {_file(holder)}"
            if name not in self.parts:
                self._add(name, _sha(Path(file).read_bytes()))
        except OSError as error:
            raise UnknownReachError(f"the source of {_file(holder)} cannot be read") from error
        self.visit(module, holder)

    def _function(self, function: types.FunctionType, user: dict[str, Any]) -> None:
        holder = function.__globals__
        inside = _closure_of(function)
        wrapped = getattr(function, "__wrapped__", None)
        name = f"{function.__qualname__} in {_file(holder)}"
        if _is_of_project(holder):
            rest = [inside, wrapped, function.__defaults__, function.__kwdefaults__]
            rest.append({key: value for key, value in vars(function).items() if key != "__wrapped__"})
            spelled = [[key, _spelled(value)] for key, value in function.__annotations__.items()]
            self._references(function.__code__, holder)
            self._add(name, _sha([_code_digest(function.__code__), spelled, self.described(rest, holder)]))
            return
        self._package(str(holder.get("__name__", "")))
        # What an installed decorator has kept of the decorated function.
        kept = [wrapped, *(value for _, value in inside)]
        if any(isinstance(one, types.FunctionType | type) and _is_of_project(_globals_of(one)) for one in kept):
            self._add(name, self.described(kept, user))

    def _class(self, cls: type) -> None:
        if type(cls) is not type:
            self.visit(type(cls), vars(sys.modules[cls.__module__]))
        for base in cls.__mro__:
            holder = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
            if not _is_of_project(holder):
                self._package(base.__module__)
            elif base is cls:
                self._body(cls, holder)
            else:
                self.visit(base, holder)

    def _body(self, cls: type, holder: dict[str, Any]) -> None:
        said: list[Any] = [[base.__qualname__ for base in cls.__bases__]]
        for name, value in list(vars(cls).items()):
            if name in _NOT_CODE or name.startswith("__pydantic_") or isinstance(value, _SLOTS):
                continue
            said.append([name, self.described(value, holder)])
        fields: Mapping[str, FieldInfo] = vars(cls).get("__pydantic_fields__") or {}
        private: Mapping[str, ModelPrivateAttr] = vars(cls).get("__private_attributes__") or {}
        for name, field in fields.items():
            kept = [field.default, field.default_factory, list(field.metadata), field.alias, field.exclude]
            more = [field.validation_alias, field.validate_default, field.discriminator]
            said.append([name, _spelled(field.annotation), self.described([*kept, *more], holder)])
        for name, attribute in private.items():
            said.append([name, self.described([attribute.default, attribute.default_factory], holder)])
        said += [self.described(one, holder) for one in _validators_of(cls)]
        annotations = vars(cls).get("__annotations__", {})
        said += [[name, _spelled(annotation)] for name, annotation in annotations.items()]
        for annotation in [*annotations.values(), *(one.annotation for one in fields.values())]:
            for kind in _classes_of(annotation):
                self.visit(kind, holder)
        self._add(f"{cls.__qualname__} in {_file(holder)}", _sha(said))

    # --- what a function refers to ---

    def _references(self, code: types.CodeType, holder: dict[str, Any]) -> None:
        found = _references_of(code)
        self.paths |= found.texts
        for module, names, level in found.imports:
            if level:
                full = importlib.util.resolve_name("." * level + module, holder.get("__package__"))
            else:
                full = _as_imported(module, holder)
            self._import(full, names, holder)
        for chain, argument in found.names:
            self._name(chain, argument, holder)

    def _name(self, chain: tuple[str, ...], argument: str | None, holder: dict[str, Any]) -> None:
        name, *rest = chain
        place = holder if name in holder else vars(builtins)
        if name not in place:
            self._add(f"{name} in {_file(holder)}", "not there")
            return
        value = place[name]
        while isinstance(value, types.ModuleType) and rest and rest[0] in vars(value):
            place, name = vars(value), rest.pop(0)
            value = place[name]
        owner = str(place.get("__name__", "")).partition(".")[0]
        if any(value is one for one in (eval, exec, __import__, sys.modules)) or (
            owner in _LOADERS and not isinstance(value, types.ModuleType)
        ):
            raise UnknownReachError(f"it uses {'.'.join(chain)}, so that its code cannot be followed")
        if "__subclasses__" in rest:
            raise UnknownReachError("it asks for __subclasses__, so that its code cannot be followed")
        if value is globals or (owner in _UNPICKLERS and name.startswith(("load", "Unpickler"))):
            self.visit(sys.modules[holder["__name__"]], holder)
        elif value is os.environ or value is os.getenv:
            if argument is None or (rest and rest != ["get"]):
                raise UnknownReachError("it reads environment variables whose names it does not spell out")
            self.environment.add(argument)
        elif isinstance(value, types.ModuleType) or _is_of_project(place):
            self._global(name, value, place)
        else:
            self._package(owner)

    def _import(self, module: str, names: tuple[str, ...], holder: dict[str, Any]) -> None:
        """An import inside a function."""
        there, shown = sys.modules.get(module), as_written(module)
        if there is None or not _is_of_project(vars(there)):
            if there is None and not _is_installed(module):
                raise UnknownReachError(f"it imports {shown} inside a function of {_file(holder)}")
            if module.partition(".")[0] in _LOADERS:
                raise UnknownReachError(f"it imports {shown} inside a function, so that its code cannot be followed")
            self._package(module)
        elif names:
            for name in names:
                if name not in vars(there):
                    raise UnknownReachError(f"it imports {shown}.{name} inside a function of {_file(holder)}")
                self._global(name, vars(there)[name], vars(there))
        else:
            self.visit(there, holder)
            beside = module.removesuffix(shown)
            self.visit(sys.modules[beside + shown.partition(".")[0]], holder)

    def _package(self, module: str) -> None:
        top = module.partition(".")[0]
        if top in OURS:
            top = "crucible_dagster"
        version = _version_of(top)
        if version is not None:
            self.parts[f"package {top}"] = version

    def _add(self, name: str, digest: str) -> None:
        known = self.parts.get(name)
        self.parts[name] = digest if known in (None, digest) else _sha([known, digest])

    # --- values ---

    def described(self, value: Any, holder: dict[str, Any]) -> str:
        """A text that differs for different values. What the value refers to is visited too."""
        exact = exact_digest(value)
        for text in value if type(value) in {list, tuple} else [value]:
            if isinstance(text, str | PurePath) and 0 < len(str(text)) <= MAX_PATH:
                self.paths.add(f"{text}/" if isinstance(text, PurePath) else text)
        if exact is not None:
            return exact.hex()
        if id(value) in self._open:
            return "itself"
        self._open.add(id(value))
        try:
            return self._described(value, holder)
        finally:
            self._open.discard(id(value))

    def _described(self, value: Any, holder: dict[str, Any]) -> str:
        kind = type(value)
        if kind in _REPR or isinstance(value, PurePath):
            return f"{kind.__name__} {value!r}"
        if kind in {list, tuple, deque}:
            return _sha([kind.__name__, *(self.described(one, holder) for one in value)])
        if kind in {dict, types.MappingProxyType}:
            return _sha([[self.described(key, holder), self.described(one, holder)] for key, one in value.items()])
        if kind in {set, frozenset}:
            return _sha([kind.__name__, *sorted(self.described(one, holder) for one in value)])
        if kind is re.Pattern:
            return _sha([value.pattern, value.flags])
        if isinstance(value, SecretStr | SecretBytes):
            return _sha(["secret", repr(value.get_secret_value())])
        if isinstance(value, logging.Logger):
            return "a logger"
        if _is_code(value):
            self.visit(value, holder)
            return f"code {getattr(value, '__qualname__', '')}"
        if parts := _parts_of_code(value):
            self.visit(kind, holder)
            return _sha([kind.__qualname__, self.described(parts, holder)])
        if isinstance(value, enum.Enum):
            self.visit(kind, holder)
            return _sha([kind.__qualname__, str(value.name), self.described(value.value, holder)])
        if state := _state_of(value):
            self.visit(kind, holder)
            return _sha([kind.__qualname__, self.described(state, holder)])
        return self._pickled(value, holder)

    def _pickled(self, value: Any, holder: dict[str, Any]) -> str:
        try:
            encoded = encode(value)
            classes = classes_in_pickle(encoded.head) if encoded.codec == "pickle" else frozenset()
        except Exception:  # noqa: BLE001  # a value that cannot be pickled or followed
            self.visit(type(value), holder)
            self._whole(holder)
            return f"a {type(value).__name__}"
        for module, name in sorted(classes):
            self.imported(module, name)
        return _sha([encoded.head, *encoded.buffers])


# --- what is what -----------------------------------------------------------------------------------------------------

_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_REPR = frozenset({complex, range, slice, type(...), type(NotImplemented), Decimal, Fraction, UUID})
_REPR |= {date, datetime, timedelta, bytes, bytearray, type(PydanticUndefined)}
_NOT_CODE = frozenset(
    {
        *("__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__", "_abc_impl"),
        *("__parameters__", "__orig_bases__", "__firstlineno__", "__static_attributes__", "__qualname__", "__slots__"),
        *("__signature__", "__class_vars__", "__private_attributes__", "source_when_defined", "model_fields"),
        *(
            "__slotnames__",
            "__dataclass_fields__",
            "__dataclass_params__",
            "__annotations_cache__",
            "__annotate_func__",
        ),
    }
)
_LOADERS = frozenset({"importlib", "pkgutil", "runpy"})
_UNPICKLERS = frozenset({"_pickle", "cloudpickle", "dill", "joblib", "pickle", "torch"})
_PLAIN_BASES = frozenset({object, BaseModel, typing.Generic, typing.Protocol})


def _is_code(value: Any) -> bool:
    return isinstance(value, types.ModuleType | types.FunctionType | type | types.BuiltinFunctionType)


def _parts_of_code(value: Any) -> list[Any]:
    """The parts of an object that represents code, such as a method, a property or a decorated function; else empty."""
    match value:
        case types.MethodType():
            return [value.__func__, value.__self__]
        case staticmethod() | classmethod():
            return [value.__func__]
        case property() | types.DynamicClassAttribute():
            return [value.fget, value.fset, value.fdel]
        case functools.cached_property():
            return [value.func]
        case functools.partial() | functools.partialmethod():
            return [value.func, value.args, value.keywords]
    if hasattr(value, "decorator_info") and hasattr(value, "wrapped"):  # of pydantic
        return [value.wrapped]
    return [value.__wrapped__] if callable(value) and hasattr(value, "__wrapped__") else []


def _validators_of(cls: type) -> list[Any]:
    """The settings of a model's pydantic validators: for which fields they run, and when."""
    found: Any = vars(cls).get("__pydantic_decorators__")
    infos = (
        [one.info for group in dataclasses.fields(found) for one in getattr(found, group.name).values()]
        if (dataclasses.is_dataclass(found))
        else []
    )
    return [
        [type(info).__name__, *(_plain_or_name(getattr(info, one.name)) for one in dataclasses.fields(info))]
        for info in infos
    ]


def _plain_or_name(value: Any) -> str:
    return repr(value) if exact_digest(value) is not None or isinstance(value, tuple) else type(value).__qualname__


def _spelled(annotation: Any) -> str:
    """An annotation as text, without the names of modules."""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation.__qualname__
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return repr(annotation)
    name = getattr(origin or annotation, "__name__", type(annotation).__name__)
    return f"{name}[{', '.join(map(_spelled, arguments))}]"


def _state_of(value: Any) -> dict[str, Any] | None:
    """The state of an object of a project class; None for other classes, or if the class defines its own state."""
    for base in type(value).__mro__:
        if base not in _PLAIN_BASES:
            module = sys.modules.get(base.__module__)
            if (
                module is None
                or not _is_of_project(vars(module))
                or {"__reduce__", "__reduce_ex__"} & vars(base).keys()
            ):
                return None
    slots = [name for base in type(value).__mro__ for name, one in vars(base).items() if isinstance(one, _SLOTS)]
    held = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    private = getattr(value, "__pydantic_private__", None) or {}
    return {"": type(value).__qualname__, **getattr(value, "__dict__", {}), **held, **private}


def _is_of_project(namespace: Mapping[str, Any]) -> bool:
    """Whether a module, given its globals, is neither installed nor Python's."""
    name, file = str(namespace.get("__name__", "")), namespace.get("__file__")
    if name == "builtins" or (name.partition(".")[0] in OURS and not name.startswith(BESIDE)):
        return False
    return _is_project_file(name, None if file is None else str(file))


@functools.lru_cache(maxsize=4096)
def _is_project_file(name: str, file: str | None) -> bool:
    if file is None:
        return name.partition(".")[0] not in sys.stdlib_module_names or name == "__main__"
    path = Path(file)
    return not (_INSTALLED & set(path.parts) or path.is_relative_to(_STDLIB))


def _as_imported(module: str, holder: Mapping[str, Any]) -> str:
    """The full name of what `import module` gives inside a module, which may be beside an experiment file."""
    name = str(holder.get("__name__", ""))
    if not name.startswith(BESIDE):
        return module
    package = sys.modules[BESIDE + name.removeprefix(BESIDE).partition(".")[0]]
    return find_module(module, Path(package.__path__[0]))


def _is_installed(module: str) -> bool:
    """Whether a module that is not imported belongs to Python, or to an installed package."""
    if module.startswith(BESIDE):
        return False
    top = module.partition(".")[0]
    if top in OURS or top in sys.stdlib_module_names:
        return True
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None and not _is_project_file(top, found.origin)


@functools.lru_cache(maxsize=1024)
def _version_of(top: str) -> str | None:
    if not top or top in sys.stdlib_module_names:
        return None
    try:
        return importlib.metadata.version("crucible-dagster" if top == "crucible_dagster" else top)
    except (importlib.metadata.PackageNotFoundError, KeyError, ValueError):
        version = getattr(sys.modules.get(top), "__version__", None)
        return version if isinstance(version, str) else None


def _closure_of(function: types.FunctionType) -> list[tuple[str, Any]]:
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it has no value yet
            found.append((name, cell.cell_contents))
    return found


def _globals_of(value: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(value, "__globals__", None) or vars(sys.modules.get(value.__module__, builtins))
    return found


def _classes_of(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _classes_of(argument)


def _file(namespace: Mapping[str, Any]) -> str:
    file = namespace.get("__file__")
    return Path(file).name if file else str(namespace.get("__name__", "?"))


# --- compiled code ----------------------------------------------------------------------------------------------------


class _References(NamedTuple):
    names: tuple[tuple[tuple[str, ...], str | None], ...]
    """A name such as `helpers.times`, and the text directly after it, as in `os.environ["HOME"]`."""
    imports: tuple[tuple[str, tuple[str, ...], int], ...]
    """Module, names and level of each import inside the function."""
    texts: frozenset[str]


_BETWEEN = frozenset({"EXTENDED_ARG", "PUSH_NULL", "PRECALL", "CACHE", "NOP", "RESUME", "COPY_FREE_VARS"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


@functools.lru_cache(maxsize=4096)
def _references_of(code: types.CodeType) -> _References:
    """What the function and the functions inside it refer to."""
    names: dict[tuple[tuple[str, ...], str | None], None] = {}
    imports: list[tuple[str, tuple[str, ...], int]] = []
    texts: set[str] = set()
    steps = [one for one in dis.get_instructions(code) if one.opname not in _BETWEEN]
    for index, step in enumerate(steps):
        if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            chain, at = [str(step.argval)], index + 1
            while at < len(steps) and steps[at].opname in _ATTRIBUTES:
                chain.append(str(steps[at].argval))
                at += 1
            following = steps[at].argval if at < len(steps) and steps[at].opname == "LOAD_CONST" else None
            names[tuple(chain), following if isinstance(following, str) else None] = None
        elif step.opname == "IMPORT_NAME":
            imports.append((str(step.argval), tuple(steps[index - 1].argval or ()), steps[index - 2].argval))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _references_of(constant)
            names |= dict.fromkeys(inner.names)
            imports += inner.imports
            texts |= inner.texts
        elif isinstance(constant, str) and 0 < len(constant) <= MAX_PATH and not {"\n", "\0"} & set(constant):
            texts.add(constant)
    return _References(tuple(names), tuple(imports), frozenset(texts))


@functools.lru_cache(maxsize=4096)
def _code_digest(code: types.CodeType) -> str:
    """A digest of what the code does; its place in the file does not matter."""
    return _sha(
        [
            *(code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
            *(code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
            *map(_constant, code.co_consts),
            getattr(code, "co_exceptiontable", b"").hex(),
        ]
    )


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _code_digest(value)
    if isinstance(value, frozenset):
        return ["frozenset", *sorted(map(repr, value))]
    return [_constant(one) for one in value] if isinstance(value, tuple) else repr(value)


def _sha(value: Any) -> str:
    digest = hashlib.sha256()
    for part in _bytes_of(value):
        digest.update(part)
    return digest.hexdigest()


def _bytes_of(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, bytes | memoryview):
        yield b"b"
        yield value
    elif isinstance(value, list | tuple):
        yield b"[%d" % len(value)
        for one in value:
            yield from _bytes_of(one)
    else:
        text = f"{type(value).__name__} {value}".encode("utf-8", "surrogatepass")
        yield b"t%d " % len(text)
        yield text
