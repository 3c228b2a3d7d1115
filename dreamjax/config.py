"""Config files ⇄ frozen dataclasses, and overrides typed by the dataclass field.

A config file is Python with one function, `get_config(**arguments) -> ml_collections.ConfigDict`. Its ConfigDict is
made from a dataclass (`to_config_dict`) and converted back to it (`to_dataclass`), so that the dataclass is the only
list of keys, types and defaults: errors name the nearest key, or the accepted type.
"""

import contextlib
import copy
import dataclasses
import inspect
import json
import re
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from dreamjax.errors import UserError, nearest

T = TypeVar("T")
Type = Any  # a type of a dataclass field: a class, a union, a Literal, list[…] and so on
Schema = Any  # a config dataclass
Instance = Any  # of a config dataclass


# ---------------------------------------------------------------------------------------------------- values and types
def type_name(kind: Type) -> str:
    """Return a type in the words of messages: `float`, `int or None`, `one of 'random', 'block'`, `list of int`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(a) for a in args)
    if origin is tuple:
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return f"mapping of {type_name(args[0])} to {type_name(args[1])}"
    if kind is type(None):
        return "None"
    return getattr(kind, "__name__", str(kind))


WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse(text: str, kind: Type) -> Any:
    """Return `text` from a command line as a `kind`. Raise ValueError, KeyError or TypeError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return {str(a): a for a in args}[text]
    if origin in (typing.Union, types.UnionType):
        for candidate in sorted(args, key=lambda a: a is not type(None)):  # None first: "none" is also a str
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return parse(text, candidate)
        raise ValueError(text)
    if origin is tuple:
        inner = text.strip().strip("()[]")
        return tuple(parse(part.strip().strip("'\""), args[0]) for part in inner.split(",") if part.strip())
    if origin is dict:
        pairs = (part.split(":", 1) for part in text.strip().strip("{}").split(",") if part.strip())
        return {parse(k.strip(), args[0]): parse(v.strip(), args[1]) for k, v in pairs}
    if kind is bool:
        return WORDS[text.lower()]
    if kind is int and "e" in text.lower():
        if not float(text).is_integer():
            raise ValueError(text)
        return int(float(text))
    if kind is type(None):
        return {"none": None, "null": None, "": None}[text.lower()]
    if kind not in (int, float, str):
        raise TypeError(kind)
    return kind(text)


def _check(value: object, kind: Type, where: str, source: str) -> object:
    """Return `value` from a config file as a `kind`; lists become tuples, and whole numbers floats where needed."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)

    def inner(value: object, kind: Type) -> Any:
        return _check(value, kind, where, source)

    if origin in (typing.Union, types.UnionType):
        for candidate in args:
            with contextlib.suppress(UserError):
                return inner(value, candidate)
    elif origin is typing.Literal:
        if value in args:
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(inner(v, args[0]) for v in value)
    elif origin is dict:
        if isinstance(value, (dict, ConfigDict)):
            return {inner(k, args[0]): inner(v, args[1]) for k, v in dict(value).items()}
    elif kind in (int, float):
        if isinstance(value, (int, kind)) and not isinstance(value, bool):
            return kind(value)
    elif isinstance(value, kind):
        return value
    raise UserError(f"{source}: {where} is {value!r}, but it must be {type_name(kind)}")


# --------------------------------------------------------------------------------------------- ConfigDict ⇄ dataclass
def fields_of(cls: Schema) -> dict[str, Type]:
    """Return field name → resolved type."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def keys_of(cls: Schema, prefix: str = "") -> list[str]:
    """Return every dotted key of a dataclass, nested ones included."""
    keys = []
    for name, kind in fields_of(cls).items():
        keys.append(prefix + name)
        if dataclasses.is_dataclass(kind):
            keys += keys_of(kind, prefix + name + ".")
    return keys


def to_config_dict(instance: Instance) -> ConfigDict:
    """Return a locked ConfigDict with the fields of a dataclass instance, nested."""
    values = {}
    for f in dataclasses.fields(instance):
        value = getattr(instance, f.name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        elif isinstance(value, dict):
            value = ConfigDict(value, convert_dict=False)
        values[f.name] = value
    config = ConfigDict(values, type_safe=False)  # `to_dataclass` checks types, and knows unions and literals
    return config.lock()


def preset(name: str, presets: Mapping[str, Instance]) -> ConfigDict:
    """Return a preset by name, as an editable config. Raise UserError for an unknown name."""
    if name not in presets:
        guess = nearest(name, list(presets))
        raise UserError(f"unknown preset {name}; did you mean {guess or ', '.join(presets)}?")
    return to_config_dict(presets[name])


def check_seed(name: str, seed: int | None) -> None:
    """Raise ValueError for a seed that is not valid for both JAX's keys and NumPy's generators."""
    if seed is not None and not 0 <= seed < 2**31:
        raise ValueError(f"{name} is {seed}, but it must lie from 0 to {2**31 - 1}")


def to_dataclass(cls: type[T], config: ConfigDict, source: str = "config", prefix: str = "") -> T:
    """Return the frozen dataclass of a ConfigDict. Raise UserError for an unknown key or a wrong type."""
    hints = fields_of(cls)
    values = {}
    for name in config:
        if name not in hints:
            raise _unknown_key(prefix + name, keys_of(cls, prefix), source)
        value = config[name]
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, (ConfigDict, dict)):
                raise UserError(f"{source}: {prefix + name} is {value!r}, but it is a group of keys")
            values[name] = to_dataclass(hints[name], ConfigDict(value), source, f"{prefix}{name}.")
        else:
            values[name] = _check(value, hints[name], prefix + name, source)
    try:
        return cls(**values)
    except ValueError as problem:  # a dataclass's own __post_init__ check
        raise UserError(f"{source}: {problem}") from problem


def _unknown_key(key: str, keys: list[str], source: str) -> UserError:
    guess = nearest(key, keys)
    hint = f"; did you mean {guess}?" if guess else f"; it has {', '.join(k for k in keys if '.' not in k)}"
    return UserError(f"{source} has no key {key}{hint}")


def kind_of(cls: Schema, key: str, source: str) -> Type:
    """Return the type of a dotted key. Raise UserError for an unknown key, naming the nearest."""
    kind: Type = cls
    for part in key.split("."):
        hints = fields_of(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            raise _unknown_key(key, keys_of(cls), source)
        kind = hints[part]
    return kind


def put(cls: Schema, config: ConfigDict, key: str, value: object, source: str) -> None:
    """Set `config.key` to a value of a config file, checked against the field of `cls`."""
    checked = _check(value, kind_of(cls, key, source), key, source)
    with config.unlocked():
        config.update_from_flattened_dict({key: checked})


def override(cls: Schema, config: ConfigDict, key: str, text: str, source: str = "config") -> None:
    """Set `config.key` from the text of `--config.key=text`, typed by the field of `cls`."""
    kind = kind_of(cls, key, f"--config.{key}={text}: {source}")
    if dataclasses.is_dataclass(kind):
        raise UserError(f"--config.{key} is a group of keys; set one of {', '.join(keys_of(kind, key + '.'))}")
    try:
        value = parse(text, kind)
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"--config.{key}={text}: {key} must be {type_name(kind)}") from problem
    with config.unlocked():
        config.update_from_flattened_dict({key: value})


# ------------------------------------------------------------------------------------------------------- config files
def load(spec: str, overrides: Sequence[tuple[str, str]], schema: Callable[[ConfigDict, str], type[T]]) -> T:
    """Return the config of `spec` = `FILE.py` or `FILE.py:argument=value,…` with `overrides` = [(dotted key, text)].

    `schema(config, source)` returns the dataclass of the file's ConfigDict. Raise UserError, naming the override that
    caused the error, or the file.
    """
    path, config = spec.partition(":")[0], read(spec)
    with config.unlocked():
        _rename(config)
    cls = schema(config, path)
    origin = {_error_of(cls, config): spec}
    for key, text in overrides:
        override(cls, config, key, text, path)
        origin.setdefault(_error_of(cls, config), f"--config.{key}={text}")
    return to_dataclass(cls, config, origin[_error_of(cls, config)])


def read(spec: str) -> ConfigDict:
    """Return what `FILE.py` or `FILE.py:argument=value,…` returns, unchecked. Raise UserError for a file that fails."""
    path, _, arguments = spec.partition(":")
    file = Path(path)
    names = {"__name__": "config", "__file__": str(file.absolute())}
    if not file.is_file():
        raise UserError(f"{path}: no such config file")
    with _errors_of(file):
        exec(compile(file.read_bytes(), str(file), "exec"), names)  # the name that `_errors_of` looks for
        function: Any = names.get("get_config")
        if function is None:
            raise UserError(f"{path}: a config file must define get_config(), and this one does not")
        parameters = inspect.signature(function, eval_str=True).parameters
        config = function(**_arguments(path, arguments, {name: p.annotation for name, p in parameters.items()}))
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returns a {type(config).__name__}, but it must return a ConfigDict")
    return config


def _error_of(cls: Schema, config: ConfigDict) -> str:
    """Return the error of a config; empty where it is valid."""
    try:
        to_dataclass(cls, config)
    except UserError as problem:
        return str(problem)
    return ""


def _arguments(path: str, text: str, kinds: Mapping[str, Type]) -> dict[str, Any]:
    """Return the arguments of `get_config` that `argument=value,…` gives."""
    values = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if name not in kinds or not equals:
            guess = nearest(name, list(kinds))
            hint = f"did you mean {guess}?" if guess else f"it takes {', '.join(kinds) or 'none'}"
            raise UserError(f"{path} has no argument {name}; {hint}")
        try:
            values[name] = parse(value, kinds[name])
        except (ValueError, KeyError, TypeError) as problem:
            raise UserError(f"{path}:{name}={value}: {name} must be {type_name(kinds[name])}") from problem
    return values


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn any error of a user's config file into one sentence: the file, its line, the error."""
    try:
        yield
    except UserError:
        raise
    except SyntaxError as problem:
        raise UserError(f"{path}: line {problem.lineno} is not Python ({problem.msg})") from problem
    except Exception as problem:
        unknown = re.search(r"Key \W*(\w+)\W* does not exist", str(problem))  # a locked ConfigDict's, many lines long
        if unknown and isinstance(problem, (AttributeError, KeyError)):
            meant = re.search(r"Did you mean \W*(\w+)", str(problem))
            hint = f"; did you mean {meant[1]}?" if meant else ""
            raise UserError(f"{path} sets the unknown key {unknown[1]}{hint}") from problem
        lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == str(path)]
        at = f"{path}, line {lines[-1]}" if lines else str(path)
        text = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
        raise UserError(f"{at}: {type(problem).__name__}{f': {text}' if text else ''}") from problem


def to_json(config: Instance) -> str:
    """Return a dataclass config as JSON (what a checkpoint keeps)."""
    return json.dumps(dataclasses.asdict(config), indent=1, sort_keys=True)


FILE = '''"""{title}

    dreamjax train --config {path} --workdir RUN
"""

import json

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Return the whole config; change it with --config.KEY=VALUE."""
    return ConfigDict(json.loads(CONFIG))


CONFIG = r"""
{config}
"""
'''


def as_file(config: Mapping[str, object], title: str, path: str) -> str:
    """Return a config file that `load` reads, of a config's JSON; `title`: the beginning of its docstring."""
    text = json.dumps(config, indent=1)
    assert '"""' not in text, "JSON escapes every quote within a string"
    return FILE.format(title=title.replace("\\", "/").replace('"""', "'"), path=path, config=text)


def from_json(cls: type[T], text: str, source: str = "config") -> T:
    """Return the config of a JSON text (see `to_json`), also one with the keys and values of earlier versions."""
    return to_dataclass(cls, ConfigDict(migrated(json.loads(text)), convert_dict=True), source)


# (dotted key, value) in the config.json of a run written before 0.2 → the same today; the value None means any
RENAMED: dict[tuple[str, Any], tuple[str, Any]] = {
    ("train.picture_every", None): ("train.image_every", None),
    ("target.splits", "pictures"): ("target.splits", "images"),
}


def migrated(stored: Mapping[str, object]) -> dict[str, Any]:
    """Return a run's config.json with today's keys and values, whichever version wrote it."""
    config: Any = copy.deepcopy(stored)
    _rename(config)
    return config


def _rename(config: dict[str, Any] | ConfigDict) -> None:
    """Replace the keys and values of earlier versions in nested dicts or ConfigDicts, in place."""
    for (old, value), (new, replacement) in RENAMED.items():
        *groups, key = old.split(".")
        part: Any = config
        for group in groups:
            part = part[group] if isinstance(part, (dict, ConfigDict)) and group in part else {}
        if isinstance(part, (dict, ConfigDict)) and key in part and (value is None or part[key] == value):
            present = part[key]
            del part[key]
            part[new.rpartition(".")[2]] = present if value is None else replacement
