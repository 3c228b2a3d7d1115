"""Look up systems by name.

A name of `BUILT_IN` is a module of this package whose `SYSTEM` is the class. An installed package adds its own systems
by the entry-point group "dreamjax.systems"; a script or a test by `register`.
"""

import importlib
from importlib import metadata
from typing import Any

from ml_collections import ConfigDict

from dreamjax.errors import UserError, nearest
from dreamjax.systems.base import System

BUILT_IN = (
    *("masked_pretraining", "text_to_image", "dreamdiffusion", "autoencoder", "classifier", "clip"),
    *("ridge", "brain_module", "nice", "atm", "shallow", "ubp", "neurobridge", "samga", "enigma"),
    *("eegnet", "shallow_fbcsp", "deep4"),
)
GROUP = "dreamjax.systems"  # entry points: name = "module:Class"

_registered: dict[str, type[System]] = {}


def register(system: type[System]) -> type[System]:
    """Make a system known by its `name` in this process; usable as a class decorator."""
    _registered[system.name] = system
    return system


def unregister(name: str) -> None:
    """Forget a system that `register` made known."""
    _registered.pop(name, None)


def names() -> list[str]:
    """Return the names of all systems."""
    return [*BUILT_IN, *sorted({*_registered, *(point.name for point in metadata.entry_points(group=GROUP))})]


def find(name: Any, source: str = "config") -> type[System]:
    """Return the class of a system. Raise UserError for an unknown name, with the nearest known one."""
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        return importlib.import_module(f"dreamjax.systems.{name}").SYSTEM
    for point in metadata.entry_points(group=GROUP):
        if point.name == name:
            return point.load()
    guess = nearest(str(name), names())
    hint = f"did you mean {guess}?" if guess else f"choose from {', '.join(names())}"
    raise UserError(f"{source}: unknown system {name!r}; {hint}")


def schema_of(config: ConfigDict, source: str = "config") -> type:
    """Return the dataclass that describes a ConfigDict, by its key `system`. Raise UserError for an unknown one."""
    if "system" not in config:
        raise UserError(f"{source}: the key system is missing; set it to one of {', '.join(names())}")
    return find(config["system"], source).Config


def build(config: Any) -> System:
    """Return the system of a config dataclass."""
    return find(config.system)(config)  # type: ignore[call-arg]
