"""Stand-ins for two packages that dreamjax requires and a machine with JAX and PyTorch may lack.

Of both, the benchmark's code uses names alone: jaxtyping in annotations, ml_collections in the type of a config file,
which no job reads. They are of this process only, and a package that is installed is used.
"""

import importlib
import sys
import types
from typing import Any

PACKAGES = ("jaxtyping", "ml_collections")


class Annotation:
    """A name that takes any shape: `Float[Array, "B N D"]`."""

    def __class_getitem__(cls, _shape: Any) -> type:
        return cls


class StandIn(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Annotation


def add() -> list[str]:
    """Put a stand-in in place of every package that is not installed; return their names."""
    absent = []
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            sys.modules[name] = StandIn(name)
            absent.append(name)
    return absent
