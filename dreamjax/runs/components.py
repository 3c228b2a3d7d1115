"""Where the parts of a latent diffusion model come from: one folder, several, or sizes alone."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from dreamjax.errors import UserError
from dreamjax.runs import shapes
from dreamjax.storage import sniffing
from dreamjax.weights import hub, weight_files
from dreamjax.weights.pipeline_folder import CONFIGS, PipelineFolder

# the keys of a config that may be a folder, or (but for the last) a hub id
FOLDERS = (
    *("model.path", "model.vae", "model.text_encoder", "model.tokenizer"),
    *("encoder.path", "target.embedding.path", "target.folder"),
)
RUN = "{run}"  # at the beginning of model.path: the run's own folder, wherever it was moved to


def located(config: Any) -> Any:
    """A run's config whose networks' folders are told from the root, so that the run opens from any folder."""
    for key in FOLDERS:
        config = _located(config, key.split("."))
    return config


def beside(config: Any, workdir: epath.PathLike) -> Any:
    """A run's config in which a model.path within the run's own folder is told from where that folder lies now."""
    folder = getattr(getattr(config, "model", None), "path", "")
    if not folder.startswith(f"{RUN}/"):
        return config
    found = str(epath.Path(workdir) / folder.removeprefix(f"{RUN}/"))
    return dataclasses.replace(config, model=dataclasses.replace(config.model, path=found))


def _located(part: Any, keys: list[str]) -> Any:
    found = getattr(part, keys[0], "")
    if keys[1:]:
        inner = _located(found, keys[1:]) if found else found
        return part if inner is found else dataclasses.replace(part, **{keys[0]: inner})
    here = os.path.isdir(found) if found else False
    return dataclasses.replace(part, **{keys[0]: os.path.abspath(found)}) if here else part


@dataclass(frozen=True)
class Ingredients:
    """The parts unet, vae, text_encoder, tokenizer and scheduler of a model; as a `PipelineFolder` answers for its own.

    A part is looked for in its own folder (`parts`), then in the pipeline's, and its config alone among the published
    sizes of `architecture`.
    """

    pipeline: PipelineFolder | None = None
    parts: Mapping[str, epath.Path] = field(default_factory=dict)
    architecture: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: str = "", *, variant: str | None = None, architecture: str = "", parts: Mapping[str, str]
    ) -> "Ingredients":
        """`path`: a pipeline's folder or hub id; `parts`: part → its own folder. What is empty is not there."""
        return cls(
            PipelineFolder.open(path, variant) if path else None,
            {name: hub.resolve(folder) for name, folder in parts.items() if folder},
            shapes.get(architecture) if architecture else {},
        )

    def has(self, name: str) -> bool:
        """Whether the part has a folder, and so weights."""
        return name in self.parts or (self.pipeline is not None and name in self.pipeline.components)

    def path(self, name: str) -> epath.Path:
        """The folder of a part. Raises UserError where it has none."""
        if name in self.parts:
            return self.parts[name]
        if self.pipeline is None:
            raise UserError(f"the model has no {name}: set model.path, or model.{name} where there is such a key")
        return self.pipeline.path(name)

    def config(self, name: str) -> dict[str, Any]:
        """The part's config, as diffusers and transformers write it. Raises UserError where there is none."""
        if name in self.parts:
            return sniffing.read_json(self.parts[name] / CONFIGS.get(name, "config.json"))
        if self.pipeline is not None and name in self.pipeline.components:
            return self.pipeline.config(name)
        if name in self.architecture:
            return dict(self.architecture[name])
        raise UserError(
            f"the model has no {name}: set model.path to a pipeline's folder, or model.architecture to sizes"
        )

    def tensors(self, name: str) -> Mapping[str, Any]:
        """The part's weights, read when asked for."""
        if name in self.parts:
            return weight_files.open_weights(self.parts[name])
        if self.pipeline is None:
            raise UserError(f"there are no weights for the {name}: set model.path to a pipeline's folder")
        return self.pipeline.tensors(name)

    def source(self, name: str) -> str:
        """What errors call the part's config."""
        return f"{self.path(name)}/{CONFIGS.get(name, 'config.json')}" if self.has(name) else f"architecture {name}"
