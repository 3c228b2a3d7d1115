"""The sources of a latent diffusion model's components: one folder, several, or named sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from etils import epath

from dreamjax.errors import UserError
from dreamjax.runs import shapes
from dreamjax.storage import sniffing
from dreamjax.typing import JsonDict
from dreamjax.weights import hub, weight_files
from dreamjax.weights.config_json import Config
from dreamjax.weights.pipeline_folder import CONFIGS, PipelineFolder
from dreamjax.weights.table import Tensors


@dataclass(frozen=True)
class Components:
    """The components unet, vae, text_encoder, tokenizer and scheduler of a model, with the methods of `PipelineFolder`.

    A component is taken from its own folder (`parts`), else from the pipeline, and its config, where it has no folder,
    from the named sizes of `architecture`.
    """

    pipeline: PipelineFolder | None = None
    parts: Mapping[str, epath.Path] = field(default_factory=dict)
    architecture: Mapping[str, Config] = field(default_factory=dict)

    @classmethod
    def of(
        cls, path: str = "", *, variant: str | None = None, architecture: str = "", parts: Mapping[str, str]
    ) -> "Components":
        """Open components. `path`: a pipeline's folder or hub id; `parts`: component → its own folder; "" for none."""
        return cls(
            PipelineFolder.open(path, variant) if path else None,
            {name: hub.resolve(folder) for name, folder in parts.items() if folder},
            shapes.get(architecture) if architecture else {},
        )

    def has(self, name: str) -> bool:
        """Return whether the component has a folder, and so weights."""
        return name in self.parts or (self.pipeline is not None and name in self.pipeline.components)

    def path(self, name: str) -> epath.Path:
        """Return the folder of a component. Raise UserError where it has none."""
        if name in self.parts:
            return self.parts[name]
        if self.pipeline is None:
            raise UserError(f"the model has no {name}: set model.path, or model.{name} where there is such a key")
        return self.pipeline.path(name)

    def config(self, name: str) -> JsonDict:
        """Return the config of a component, as diffusers and transformers write it. Raise UserError without one."""
        if self.has(name):
            return sniffing.read_json(self.path(name) / CONFIGS.get(name, "config.json"))
        if name in self.architecture:
            return dict(self.architecture[name])
        raise UserError(
            f"the model has no {name}: set model.path to a pipeline's folder, or model.architecture to sizes"
        )

    def tensors(self, name: str) -> Tensors:
        """Return the weights of a component, which are read lazily."""
        if name in self.parts:
            return weight_files.open_weights(self.parts[name])
        if self.pipeline is None:
            raise UserError(f"there are no weights for the {name}: set model.path to a pipeline's folder")
        return self.pipeline.tensors(name)

    def source(self, name: str) -> str:
        """Return what errors call the config of a component."""
        return f"{self.path(name)}/{CONFIGS.get(name, 'config.json')}" if self.has(name) else f"architecture {name}"
