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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from rlvr.errors import UserError, suggest
from rlvr.foreign import guard, run_foreign

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
    "ranking": "rlvr.data.selection",
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

# Keys of recipes that once had another name: their refusal says the new one.
RENAMED = {
    "alone": "singleton",
    "floor": "min_variance",
    "rest": "cooldown",
    "slack": "count_eps",
}

# What the parameters of many plug-ins are.
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

Function = TypeVar("Function", bound=Callable[..., Any])
Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Plugin:
    """A named function with the schema of its parameters and what it needs.

    Needs are `ref`, `old`, `value` and so on. A loss term that needs a `signal` is zero, as is its
    slope, wherever the advantage is.
    """

    kind: str
    name: str
    function: Callable[..., Any]
    needs: frozenset[str]
    schema: type[BaseModel]

    def bind(self, params: Mapping[str, Any], where: str) -> Callable[..., Any]:
        """Return the function with its parameters fixed, guarded where it is of a user's file.

        Raises UserError naming `where` for an unknown key or a wrong type.
        """
        bound = functools.partial(self.function, **self.check(params, where))
        return guard(bound, self.kind, self.name)

    def check(self, params: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return all parameters, those that are left out with their defaults; raises UserError."""
        checked = validate(self.schema, dict(params), where)
        return {name: getattr(checked, name) for name in self.schema.model_fields}


_PLUGINS: dict[tuple[str, str], Plugin] = {}


def register(kind: str, name: str, *, needs: Iterable[str] = ()) -> Callable[[Function], Function]:
    """Register a function or class under a name; its keyword-only parameters become recipe keys."""

    def decorate(function: Function) -> Function:
        schema = _make_schema(function, name)
        _PLUGINS[kind, name] = Plugin(kind, name, function, frozenset(needs), schema)
        return function

    return decorate


def find(kind: str, name: str, where: str) -> Plugin:
    """Return the plug-in of that name; raises UserError with a suggestion where there is none."""
    if ":" in name:
        return _load_external(kind, name, where)
    _load_home(HOMES[kind])
    if (kind, name) not in _PLUGINS:
        raise UserError(f"{where}: unknown {kind} '{name}'{suggest(name, list_names(kind))}")
    return _PLUGINS[kind, name]


def list_names(kind: str) -> list[str]:
    """Return all built-in names of a kind, sorted."""
    _load_home(HOMES[kind])
    return sorted(name for known, name in _PLUGINS if known == kind)


# --- Schemas


def _make_schema(function: Callable[..., Any], name: str) -> type[BaseModel]:
    """Return a schema with a field for each keyword-only parameter."""
    namespace = vars(sys.modules[function.__module__])
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        # Only these annotations are evaluated: the others may name types of libraries that are
        # not loaded yet.
        if parameter.kind is parameter.KEYWORD_ONLY:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (_evaluate_annotation(parameter, namespace), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(name, __config__=config, **fields)


def _evaluate_annotation(parameter: inspect.Parameter, namespace: dict[str, Any]) -> Any:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any
    if isinstance(annotation, str):
        return eval(annotation, namespace)  # noqa: S307
    return annotation


def validate(schema: type[Schema], value: Any, where: str) -> Schema:
    """Return the value as one of that schema; raises UserError naming `where`."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise UserError(_explain(error, where, schema)) from None


def _explain(error: ValidationError, where: str, schema: type[BaseModel]) -> str:
    """Return one fault of a pydantic error as a line that names the key and the fix.

    An unknown key comes before a missing one, which it often is, misspelt.
    """
    faults = error.errors()
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    fault = [*unknown, *faults][0]
    path = [str(part) for part in fault["loc"]]
    if where:
        path.insert(0, where)
    return f"{'.'.join(path)}: {_describe_fault(fault, schema)}"


def _describe_fault(fault: ErrorDetails, schema: type[BaseModel]) -> str:
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    match fault["type"]:
        case "extra_forbidden":
            known = _list_fields(schema, fault["loc"][:-1])
            return _explain_unknown_key(str(fault["loc"][-1]), known)
        case "missing":
            return "is required"
        case "too_short":
            return "should not be empty"
        case "value_error":
            return message
        case "model_type":
            keys = ", ".join(_list_fields(schema, fault["loc"]))
            wanted = f"a mapping of keys ({keys})"
        case "tuple_type":
            wanted = "a list"
        case _:
            wanted = message
    return f"should be {wanted}, not {fault['input']!r}"


def _explain_unknown_key(key: str, known: Sequence[str]) -> str:
    if key in RENAMED and RENAMED[key] in known:
        return f"unknown key; it is called '{RENAMED[key]}' now"
    return f"unknown key{suggest(key, known)}"


def _list_fields(schema: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    """Return the keys of the schema at the end of a path; a row of a list has those of its list."""
    for part in path:
        annotation: Any = schema
        if part in schema.model_fields:
            annotation = schema.model_fields[str(part)].annotation
        schema = next(_list_models(annotation), schema)
    return list(schema.model_fields)


def _list_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the schemas among the types of an annotation, as in `CriticConfig | None`."""
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind


# --- Built-ins


@functools.cache
def _load_home(home: str) -> None:
    """Import what registers the built-ins of a kind: a module, or those of a package."""
    module = importlib.import_module(home)
    for member in pkgutil.iter_modules(getattr(module, "__path__", [])):
        name = f"{home}.{member.name}"
        if _registers_plugins(name):
            importlib.import_module(name)


def _registers_plugins(name: str) -> bool:
    """Return whether a module registers anything; the others of a room may load torch."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return False
    return "@register(" in Path(spec.origin).read_text(encoding="utf-8")


# --- Code outside the repository


def _load_external(kind: str, name: str, where: str) -> Plugin:
    """Return the plug-in `module:function` or `file.py:function`, registered or not; raises UserError."""
    source, _, attribute = name.rpartition(":")
    load = _load_file if source.endswith(".py") else _load_module
    members: dict[str, Any] = vars(load(source, where))
    function = members.get(attribute)
    if not callable(function):
        known = _list_functions(members)
        raise UserError(
            f"{where}: '{source}' has no function '{attribute}'{suggest(attribute, known)}"
        )
    for plugin in _PLUGINS.values():
        if plugin.kind == kind and plugin.function is function:
            return plugin
    return Plugin(kind, name, function, frozenset(), _make_schema(function, attribute))


def _list_functions(members: Mapping[str, Any]) -> list[str]:
    return [name for name, value in members.items() if callable(value) and not name.startswith("_")]


def _load_module(source: str, where: str) -> ModuleType:
    if not all(part.isidentifier() for part in source.split(".")):
        raise UserError(f"{where}: '{source}' is not the name of a module")
    complaint = f"{where}: '{source}' does not load"
    return run_foreign(lambda: importlib.import_module(source), complaint)


def _load_file(source: str, where: str) -> ModuleType:
    """Return the module of a Python file, which is loaded once however it is written."""
    path = Path(source).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{where}: no such file '{source}'")
    name = f"rlvr_file_{hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    execute = spec.loader.exec_module
    sys.modules[name] = module
    # At the end, so that a file beside it shadows no installed library.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        run_foreign(lambda: execute(module), f"{where}: '{source}' does not load")
    except UserError:
        del sys.modules[name]
        raise
    return module
