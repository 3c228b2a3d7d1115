"""Config keys that systems share: those of a run, and those of a network's computation."""

from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp

from dreamjax import config as configs
from dreamjax.models.transformer import REMAT_NAMES
from dreamjax.parallel import environment
from dreamjax.training.optimiser import OptimConfig
from dreamjax.training.train_config import TrainConfig
from dreamjax.typing import JsonDict
from dreamjax.weights import networks
from dreamjax.weights.loaded import LoadedNetwork

PASSED = ("attention", "scan_layers", "remat", "remat_names")  # to the network, where a config has them


@dataclass(frozen=True, kw_only=True)
class GradientConfig:
    """A run of a system that is trained by gradient descent."""

    seed: int = 0  # of parameters, data order and all random draws
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        configs.check_seed("seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Type, attention and rematerialisation; results change only by rounding."""

    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters are float32
    attention: Literal["auto", "xla", "cudnn", "saved"] = "auto"  # see models/attention.py
    remat: Literal["none", "full"] = "none"

    def __post_init__(self) -> None:
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise ValueError("model.attention=cudnn computes in bfloat16: set model.dtype=bfloat16")

    def network(self, config: JsonDict, source: str) -> LoadedNetwork:
        """Return the network of a config.json (`source` in errors), with the shapes of its parameters alone."""
        network = networks.of(config, source)
        passed = {name: getattr(self, name) for name in PASSED if hasattr(self, name)}
        arguments = network.arguments(config, source) | {"dtype": jnp.dtype(self.dtype), **passed}
        return LoadedNetwork(network, arguments, network.shapes(arguments))

    def check_device(self) -> None:
        """Raise UserError where the devices of this process do not have the attention."""
        environment.check_attention(self.attention, "model.attention", "--config.model.attention=auto")


@dataclass(frozen=True, kw_only=True)
class LayersConfig(ComputeConfig):
    """The computation of a stack of equal layers."""

    scan_layers: bool = True  # False: unrolled, slower to compile
    remat: Literal["none", "full", "dots"] = "none"  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class NamedLayersConfig(LayersConfig):
    """The computation of layers whose values kept for the backward pass can be named."""

    remat: Literal["none", "full", "dots", "names"] = "none"  # type: ignore[assignment]
    remat_names: tuple[str, ...] = ()  # kept for the backward pass with remat names: qkv, attention, hidden

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.remat_names) - set(REMAT_NAMES):
            raise ValueError(f"model.remat_names has {sorted(unknown)[0]!r}; a block names {', '.join(REMAT_NAMES)}")
