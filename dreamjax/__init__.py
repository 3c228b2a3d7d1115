"""dreamjax: brain signals to images, in JAX.

    import dreamjax

    model = dreamjax.load("runs/tiny")

The names below are imported when they are first used: `import dreamjax` itself imports nothing else.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from dreamjax.api import compare, evaluate, generate, import_checkpoint, prepare, relocate, train
    from dreamjax.errors import UserError
    from dreamjax.model import Model, Pipeline, load, load_pipeline

__all__ = [
    "Model",
    "Pipeline",
    "UserError",
    "compare",
    "evaluate",
    "generate",
    "import_checkpoint",
    "load",
    "load_pipeline",
    "prepare",
    "relocate",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dreamjax' has no attribute {name!r}")
    of_model = ("Model", "Pipeline", "load", "load_pipeline")
    module = "errors" if name == "UserError" else "model" if name in of_model else "api"
    return getattr(importlib.import_module(f"dreamjax.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
