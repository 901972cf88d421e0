"""Names for plug-ins: a plug-in is a registered function or class whose keyword-only parameters are
its recipe schema.

A built-in registers itself with `@register(kind, name)`. Code outside the repository needs no
registration: the names `package.module:function` and `path/to/file.py:function` load it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from rlvr.errors import UserError, suggest

# Where the built-ins of each kind live; a package is searched whole, so adding a file to it is
# enough.
HOMES: Mapping[str, str] = {
    "data": "rlvr.tasks",
    "task": "rlvr.tasks",
    "gate": "rlvr.tasks",
    "prompt": "rlvr.data.prompts",
    "reward": "rlvr.rewards.functions",
    "gather": "rlvr.rollouts.gather",
    "filter": "rlvr.rollouts.filters",
    "ranking": "rlvr.data.rankings",
    "select": "rlvr.data.selection",
    "advantage": "rlvr.training.advantage",
    "loss": "rlvr.training.loss",
    "reduction": "rlvr.training.reductions",
    "correction": "rlvr.training.corrections",
    "schedule": "rlvr.training.schedules",
    "engine": "rlvr.engines",
    "tracker": "rlvr.run.trackers",
    "benchmark": "rlvr.config.benchmarks",
}


# Keys of recipes that once had another name.
RENAMED = {
    "alone": "singleton",
    "floor": "min_variance",
    "rest": "cooldown",
    "slack": "count_eps",
}

# What the parameters of many plug-ins are.
Count = Annotated[int, Field(ge=1)]


Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Plugin:
    """A named function with what it needs (`ref`, `old`, `value` and so on; a loss term that needs
    a `signal` is zero, as is its slope, wherever the advantage is) and the schema of its
    parameters.
    """

    kind: str
    name: str
    function: Callable[..., Any]
    needs: frozenset[str]
    schema: type[BaseModel]

    def bind(self, params: Mapping[str, Any], where: str) -> Callable[..., Any]:
        """The function with its parameters fixed; raises UserError naming `where` for an unknown
        key or a wrong type.
        """
        return functools.partial(self.function, **self.check(params, where))

    def check(self, params: Mapping[str, Any], where: str) -> dict[str, Any]:
        checked = validated(self.schema, dict(params), where)
        return {name: getattr(checked, name) for name in self.schema.model_fields}


F = TypeVar("F", bound=Callable[..., Any])


M = TypeVar("M", bound=BaseModel)


_PLUGINS: dict[tuple[str, str], Plugin] = {}


def register(kind: str, name: str, *, needs: Iterable[str] = ()) -> Callable[[F], F]:
    """Register a function or class under a name; its keyword-only parameters become keys of the
    recipe.
    """

    def decorate(function: F) -> F:
        _PLUGINS[kind, name] = Plugin(
            kind, name, function, frozenset(needs), _schema_of(function, name)
        )
        return function

    return decorate


def find(kind: str, name: str, where: str) -> Plugin:
    """The plug-in of that name; raises UserError with a suggestion where there is none."""
    if ":" in name:
        return _external(kind, name, where)
    _load_home(HOMES[kind])
    if (kind, name) not in _PLUGINS:
        raise UserError(f"{where}: unknown {kind} '{name}'{suggest(name, names(kind))}")
    return _PLUGINS[kind, name]


def names(kind: str) -> list[str]:
    """All built-in names of a kind, sorted."""
    _load_home(HOMES[kind])
    return sorted(name for known, name in _PLUGINS if known == kind)


def validated(schema: type[M], value: Any, where: str) -> M:
    """The value as one of that schema; raises UserError naming `where`."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise UserError(_explained(error, where, schema)) from None


def _explained(error: ValidationError, where: str, schema: type[BaseModel]) -> str:
    """The first fault of a pydantic error as one line that names the key and the fix; an unknown
    key comes before a missing one, which it often is, misspelt.
    """
    faults = error.errors()
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    path = ".".join(map(str, [where, *fault["loc"]] if where else fault["loc"]))
    if fault["type"] == "extra_forbidden":
        known = _fields_at(schema, fault["loc"][:-1])
        key = str(fault["loc"][-1])
        if RENAMED.get(key) in known:
            return f"{path}: unknown key; it is called '{RENAMED[key]}' now"
        return f"{path}: unknown key{suggest(key, known)}"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    keys = ", ".join(_fields_at(schema, fault["loc"]))
    wanted = {"model_type": f"a mapping of keys ({keys})", "tuple_type": "a list"}.get(
        fault["type"], message
    )
    given = repr(fault["input"])
    told = {"missing": "is required", "too_short": "should not be empty", "value_error": message}
    return f"{path}: {told.get(fault['type'], f'should be {wanted}, not {given}')}"


def _fields_at(schema: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    for part in path:
        annotation = schema.model_fields[part].annotation if part in schema.model_fields else schema
        inner = [
            a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)
        ]
        schema = next((a for a in inner if issubclass(a, BaseModel)), schema)
    return list(schema.model_fields)


def _schema_of(function: Callable[..., Any], name: str) -> type[BaseModel]:
    space = vars(sys.modules[function.__module__])
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            kind = parameter.annotation
            # Only these annotations are evaluated: the others may name types of libraries that are
            # not loaded yet.
            kind = eval(kind, space) if isinstance(kind, str) else kind  # noqa: S307
            kind = Any if kind is parameter.empty else kind
            fields[parameter.name] = (
                kind,
                ... if parameter.default is parameter.empty else parameter.default,
            )
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(name, __config__=config, **fields)


@functools.cache
def _load_home(home: str) -> None:
    module = importlib.import_module(home)
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if _registers(f"{home}.{found.name}"):
            importlib.import_module(f"{home}.{found.name}")


def _registers(name: str) -> bool:
    """Return whether a module registers anything; the others of a room may load torch."""
    spec = importlib.util.find_spec(name)
    source = spec.origin if spec else None
    return source is not None and "@register(" in Path(source).read_text(encoding="utf-8")


def _external(kind: str, name: str, where: str) -> Plugin:
    place, _, attribute = name.rpartition(":")
    module = _from_file(place, where) if place.endswith(".py") else _from_import(place, where)
    space: dict[str, Any] = vars(module)
    function = space.get(attribute)
    if not callable(function):
        known = [key for key, value in space.items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"{where}: '{place}' has no function '{attribute}'{suggest(attribute, known)}"
        )
    registered = next(
        (p for p in _PLUGINS.values() if p.kind == kind and p.function is function), None
    )
    return registered or Plugin(kind, name, function, frozenset(), _schema_of(function, attribute))


def _from_import(place: str, where: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise UserError(f"{where}: '{place}' is not the name of a module")
    return _run(lambda: importlib.import_module(place), place, where)


def _from_file(place: str, where: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{where}: no such file '{place}'")
    name = f"rlvr_file_{hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module, execute = importlib.util.module_from_spec(spec), spec.loader.exec_module
    sys.modules[name] = module
    try:
        _run(lambda: execute(module), place, where)
    except UserError:
        del sys.modules[name]
        raise
    return module


def _run(load: Callable[[], Any], place: str, where: str) -> Any:
    try:
        return load()
    # a user's own code: whatever it raises while loading is reported in one line
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{where}: '{place}' does not load: {type(error).__name__}: {reason}"
        ) from None
