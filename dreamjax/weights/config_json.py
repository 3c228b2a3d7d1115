"""Read the config.json of published weights; a field whose type or value is not supported raises an error."""

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any

from dreamjax.console import log
from dreamjax.errors import UserError, nearest
from dreamjax.models.layers import ACTIVATIONS

Config = Mapping[str, Any]  # the object of a config.json
Arguments = dict[str, Any]  # of a class of `models`
KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
DEPTHS = ("num_hidden_layers", "layers_per_block", "transformer_layers_per_block")  # fields that count layers
MAX_DEPTH = 1000  # layers, and levels; each takes time to build, even without weights
ANY = object()  # a field that changes nothing in what is computed
MAY_BE_0 = ("downsample_padding", "eos_token_id", "num_register_tokens")  # of the whole numbers; others are sizes


def read(
    config: Config, source: str, *, defaults: Config, fixed: Mapping[str, object] = {}, complete: bool = False
) -> dict[str, Any]:
    """Return `defaults` updated by `config`; lists become tuples.

    `defaults`: field → default. A value must have its type (or be a whole number for a float); where the default is
    None or a tuple, the caller checks the value. `fixed`: field → the only values that are supported, or ANY.
    `complete`: the class has no other fields, so that unknown ones are warned about, as diffusers does. Raises
    UserError for a value that is not supported or of another type, and for a misspelt field name.
    """
    known = [*defaults, *fixed]
    for name, allowed in fixed.items():
        if isinstance(allowed, tuple) and name in config and _plain(config[name]) not in allowed:
            supported = " or ".join(repr(value) for value in allowed)
            raise UserError(f"{source}: {name} is {config[name]!r}, which is not supported; it must be {supported}")
    for name in config:
        if name not in known and not name.startswith("_"):
            guess = nearest(name, [k for k in known if k not in config])
            if guess and difflib.SequenceMatcher(None, name, guess).ratio() > 0.9:  # differs by a slip
                raise UserError(f"{source} has a field {name}; did it mean {guess}?")
            if complete:
                log.warning("%s has a field %s, which is unknown and ignored", source, name)
    fields = {}
    for name, default in defaults.items():
        value = _plain(config.get(name, default))
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        simple = default is not None and not isinstance(default, tuple)
        if simple and type(value) is not type(default):
            raise UserError(f"{source}: {name} is {value!r}, but it must be a {KINDS[type(default)]}")
        if simple and type(value) in (int, float) and not 0 <= value < math.inf:
            raise UserError(f"{source}: {name} is {value}, but it cannot be negative or infinite")
        if simple and type(value) is int and value == 0 and name not in MAY_BE_0:
            raise UserError(f"{source}: {name} is 0, but it must be at least 1")
        if name in DEPTHS and type(value) is int and value > MAX_DEPTH:
            raise UserError(f"{source}: {name} is {value}, but at most {MAX_DEPTH} are supported")
        fields[name] = value
    return fields


def check_counts(arguments: Config, shapes: Collection[tuple[int, ...]], source: str) -> None:
    """Raise UserError for more layers than the file of weights has tensors, or a size above the count of its numbers.

    `shapes`: of the tensors.
    """
    numbers = sum(map(math.prod, shapes))
    for name, value in arguments.items():
        counts = [n for n in (value if isinstance(value, tuple) else (value,)) if type(n) is int]
        if name in ("depth", "layers", "depths") and sum(counts) > len(shapes):
            raise UserError(f"{source}: {name} is {sum(counts)}, but the weights are only {len(shapes)} tensors")
        if max(counts, default=0) > numbers:
            raise UserError(f"{source}: {name} is {max(counts)}, but the weights are only {numbers} numbers")


def check_activation(value: object, name: str, source: str) -> None:
    """Raise UserError where `value` does not name an activation."""
    if value not in ACTIVATIONS:
        raise UserError(f"{source}: {name} is {value!r}; it must be one of {', '.join(ACTIVATIONS)}")


def class_of(config: Config) -> str | None:
    """Return the class that a config.json names (`_class_name` of diffusers, `architectures` of transformers)."""
    listed = config.get("architectures")
    named = config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else None)
    return named if isinstance(named, str) else None


def _plain(value: Any) -> Any:
    return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def per_level(value: object, levels: int, name: str, source: str, otherwise: int = 1) -> tuple[int, ...]:
    """Return one whole number per level, from one for all or a list of them; `otherwise` for None.

    Raises UserError for anything else.
    """
    value = otherwise if value is None else value
    values: tuple[Any, ...] = value if isinstance(value, tuple) else (value,) * levels
    if len(values) != levels or any(type(v) is not int or not 1 <= v <= MAX_DEPTH for v in values):
        raise UserError(
            f"{source}: {name} is {value!r:.200}, but it must be a whole number from 1 to {MAX_DEPTH}, or one for each "
            f"of {levels} levels"
        )
    return values


def widths(value: object, groups: int, source: str) -> tuple[int, ...]:
    """Return `block_out_channels`, whose entries `norm_num_groups` divides. Raises UserError for anything else."""
    if not isinstance(value, tuple) or not value or any(type(width) is not int or width < 1 for width in value):
        raise UserError(f"{source}: block_out_channels is {value!r}, but it must be a list of whole numbers")
    if uneven := [width for width in value if width % groups]:
        raise UserError(
            f"{source}: block_out_channels has {uneven[0]}, which norm_num_groups = {groups} does not divide"
        )
    return value
