"""dreamjax: brain signals to images, in JAX.

    import dreamjax

    model = dreamjax.load("runs/tiny")

The names below are imported when they are first used: `import dreamjax` itself imports nothing else.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from dreamjax.api import (
        Model,
        Pipeline,
        evaluate,
        export,
        import_checkpoint,
        load,
        load_pipeline,
        prepare,
        train,
    )
    from dreamjax.errors import UserError

__all__ = [
    "Model",
    "Pipeline",
    "UserError",
    "evaluate",
    "export",
    "import_checkpoint",
    "load",
    "load_pipeline",
    "prepare",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dreamjax' has no attribute {name!r}")
    module = importlib.import_module("dreamjax.errors" if name == "UserError" else "dreamjax.api")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
