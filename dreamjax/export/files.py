"""Files of an export: text, JSON, copies."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from dreamjax.storage import sniffing
from dreamjax.systems.base import FileContent
from dreamjax.weights import writing


def subfolder(folder: epath.Path, name: str) -> epath.Path:
    """Return the folder of a component, made where it is missing; `name` is "" for `folder` itself."""
    within = folder / name if name else folder
    within.mkdir(parents=True, exist_ok=True)
    return within


def fields(config: Mapping[str, Any] | epath.Path) -> Mapping[str, Any]:
    """Return the fields of a config.json that is given or lies in a file."""
    return config if isinstance(config, Mapping) else sniffing.read_json(config)


def write(folder: epath.Path, contents: Mapping[str, FileContent]) -> None:
    """Write or copy files, and copy folders, by their path within `folder`."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Mapping):
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        elif content.is_dir():
            writing.copy_component(content, path)
        else:
            writing.copy_file(content, path)
