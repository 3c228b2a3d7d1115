"""An export to diffusers and transformers: a folder for each component, in the names that these libraries look for."""

from etils import epath

from dreamjax.export import files
from dreamjax.export.facts import ModelFacts
from dreamjax.storage import manifest
from dreamjax.systems.base import Exported
from dreamjax.weights import writing

TOLERANCE = 1e-4  # of the largest magnitude; float32
PACKAGES = ("torch", "safetensors", "diffusers", "transformers")
IMPORTS = "import diffusers.models.modeling_utils, transformers.modeling_utils"  # what every class of theirs imports
STEMS = {True: "diffusion_pytorch_model", False: "model"}  # of files of weights: diffusers', transformers'


def write(folder: epath.Path, exported: Exported, facts: ModelFacts) -> dict[str, str]:
    """Write every component into an existing folder; return file of weights → its SHA-256."""
    hashes = {}
    for name, component in exported.components.items():
        within = files.subfolder(folder, name)
        stem = STEMS["_class_name" in files.fields(component.config)]
        for file in writing.write_safetensors(within, stem, component.tensors):
            if file.endswith(".safetensors"):
                hashes[f"{name}/{file}".lstrip("/")] = manifest.file_hash(within / file)
        files.write(within, {**component.files, "config.json": component.config})
    if exported.facts:
        entries = {**facts.as_json(), **exported.facts, "parity_tolerance": TOLERANCE}
        files.write(folder, {"provenance.json": entries})
    return hashes
