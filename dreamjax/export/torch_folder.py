"""An export to PyTorch: config.json with the model's facts in it, model.safetensors, and the system's own module."""

import json

from etils import epath

from dreamjax.export import files
from dreamjax.export.facts import ModelFacts
from dreamjax.storage import manifest
from dreamjax.storage.checkpoint_files import safetensors_files
from dreamjax.systems.base import Exported

TOLERANCE = 1e-5  # of the largest magnitude; float32
PACKAGES, IMPORTS = ("torch", "safetensors"), ""  # of the comparison
WEIGHTS = "model.safetensors"
LEFT_OUT = ("notes", "evaluation")  # of the facts


def write(folder: epath.Path, exported: Exported, facts: ModelFacts) -> dict[str, str]:
    """Write every component into an existing folder; return file of weights → its SHA-256."""
    hashes = {}
    for name, component in exported.components.items():
        within = files.subfolder(folder, name)
        safetensors_files.write(within / WEIGHTS, component.tensors)
        sha256 = hashes[f"{name}/{WEIGHTS}".lstrip("/")] = manifest.file_hash(within / WEIGHTS)
        entries = {name: value for name, value in facts.as_json().items() if name not in LEFT_OUT}
        entries |= {**exported.facts, "sha256": sha256, "parity_tolerance": TOLERANCE}
        files.write(within, component.files)
        config = {**files.fields(component.config), "dreamjax": entries}
        (within / "config.json").write_text(json.dumps(config, indent=1))
    return hashes
