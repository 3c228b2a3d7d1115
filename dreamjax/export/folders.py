"""Lay out an export in its folder.

To torch: config.json with the model's facts, model.safetensors, and the system's own module. To diffusers (and
transformers): a folder for each component, by the names that these libraries use, and the facts in provenance.json.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from etils import epath

from dreamjax.storage import manifest, presence, sniffing
from dreamjax.systems.exchange import Exported, FileContent, Format
from dreamjax.typing import JsonDict
from dreamjax.weights import weight_files

LEFT_OUT = ("notes", "evaluation")  # of the facts in a config.json


@dataclass(frozen=True)
class Layout:
    """The layout of one format, and how it is compared with dreamjax (see `driver.comparison`)."""

    tolerance: float  # of the largest magnitude; float32
    packages: tuple[str, ...]
    imports: str = ""  # slow imports, which every class of these packages needs


LAYOUTS: dict[Format, Layout] = {
    "torch": Layout(1e-5, ("torch", "safetensors")),
    "diffusers": Layout(
        1e-4,
        ("torch", "safetensors", "diffusers", "transformers"),
        "import diffusers.models.modeling_utils, transformers.modeling_utils",
    ),
}


def tolerance(exported: Exported, to: Format) -> float:
    """Return how far PyTorch's results may be from ours, as a share of the largest magnitude."""
    return LAYOUTS[to].tolerance if exported.tolerance is None else exported.tolerance


def write(folder: epath.Path, exported: Exported, facts: JsonDict, to: Format) -> dict[str, str]:
    """Write components and files into an existing folder; return file of weights → its SHA-256."""
    hashes: dict[str, str] = {}
    limit = {"parity_tolerance": tolerance(exported, to)}
    for name, component in exported.components.items():
        within = folder / name
        within.mkdir(parents=True, exist_ok=True)
        config = component.config
        fields = config if isinstance(config, Mapping) else sniffing.read_json(config)
        stem = "diffusion_pytorch_model" if to == "diffusers" and "_class_name" in fields else "model"
        most = (
            weight_files.MAX_SHARD_BYTES if to == "diffusers" else sys.maxsize
        )  # a system's own module opens one file
        files = weight_files.write_safetensors(within, stem, component.tensors, max_shard_bytes=most)
        hashes |= {
            f"{name}/{file}".lstrip("/"): manifest.file_hash(within / file)
            for file in files
            if file.endswith(".safetensors")
        }
        write_files(within, component.files)
        if to == "diffusers":
            write_files(within, {"config.json": config})
            continue
        known = {key: value for key, value in facts.items() if key not in LEFT_OUT}
        entries = {**known, **exported.facts, "sha256": manifest.file_hash(within / files[0]), **limit}
        (within / "config.json").write_text(json.dumps({**fields, "dreamjax": entries}, indent=1))
    if exported.facts and to == "diffusers":
        write_files(folder, {"provenance.json": {**facts, **exported.facts, **limit}})
    write_files(folder, exported.files)
    return hashes


def write_files(folder: epath.Path, contents: Mapping[str, FileContent]) -> None:
    """Write or copy files, and copy folders, by their path within `folder`."""
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, Mapping):
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        elif presence.is_folder(content):
            weight_files.copy_component(content, path)
        else:
            weight_files.copy_file(content, path)
