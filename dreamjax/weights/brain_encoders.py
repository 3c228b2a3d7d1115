"""Encoders of brain signals: how each is built from its sizes, and its names in the released code.

NICE's two files (Enc_eeg and Proj_eeg) are one set of tensors here, each under its file's name.
"""

import inspect

from flax import nnx

from dreamjax.errors import UserError
from dreamjax.models.brain_module import BrainModule
from dreamjax.models.temporal_spatial import TSConv
from dreamjax.weights.config_json import Arguments, Config
from dreamjax.weights.networks import Network
from dreamjax.weights.table import IDENTITY, NameRows, Table, Transform, batch_norm, layer

# (in, out, 1) ⇄ (1, in, out): the kernel of a transposed convolution of one position
TRANSPOSED = Transform(lambda rank: (2, 0, 1))
COUNTS = r"(.*\.)?num_batches_tracked"  # of torch's batch normalisation, which it does not use


def network(
    build: type[nnx.Module], *rows: tuple, ignored: str = COUNTS, aliases: tuple[tuple[str, str], ...] = ()
) -> Network:
    """Return a network whose config has the names of the arguments of `build`."""
    parameters = [p for name, p in inspect.signature(build.__init__).parameters.items() if name not in ("self", "rngs")]

    def arguments(config: Config, source: str) -> Arguments:
        needed = [p.name for p in parameters if p.default is p.empty]
        if missing := [name for name in needed if name not in config]:
            raise UserError(f"{source}: {', '.join(missing)} missing; the encoder needs {', '.join(needed)}")
        for p in parameters:
            kind = int if p.default is p.empty else type(p.default)
            if p.name in config and type(config[p.name]) is not kind:
                raise UserError(f"{source}: {p.name} is {config[p.name]!r}, but it must be of type {kind.__name__}")
        return {p.name: config[p.name] for p in parameters if p.name in config}

    return Network(build, arguments, Table(*rows, ignored=ignored, aliases=aliases))


def temporal_spatial(torch: str, path: str) -> NameRows:
    """Return the rows of `TemporalSpatial`."""
    return (
        *layer(f"{torch}.tsconv.0", f"{path}/temporal"),
        *batch_norm(f"{torch}.tsconv.2", f"{path}/temporal_norm"),
        *layer(f"{torch}.tsconv.4", f"{path}/spatial"),
        *batch_norm(f"{torch}.tsconv.5", f"{path}/spatial_norm"),
        *layer(f"{torch}.projection.0", f"{path}/projection"),
    )


def projector(torch: str, path: str) -> NameRows:
    """Return the rows of `ResidualProjector`."""
    names = (("0", "fc"), ("1.fn.1", "residual"), ("2", "norm"))
    return tuple(row for theirs, ours in names for row in layer(f"{torch}.{theirs}", f"{path}/{ours}"))


def brain_module(blocks: int = 16) -> NameRows:
    """Return the rows of Meta's brain module with up to so many blocks, in the names of its open code (neuraltrain)."""
    rows: NameRows = (
        ("merger.heads", "attention/heads", IDENTITY),
        *layer("initial_linear.0", "initial"),
        ("subject_layers.weights", "subject_layer/weights", IDENTITY),
    )
    for i in range(blocks):
        for j in (0, 1):
            conv, path = f"encoder.sequence.{2 * i + j}", f"blocks/{i}/conv{j + 1}"
            rows += (*layer(f"{conv}.0", f"{path}/conv"), *batch_norm(f"{conv}.1", f"{path}/norm"))
        rows += layer(f"encoder.glus.{2 * i + 1}.0", f"blocks/{i}/gate")
    return (
        *rows,
        *layer("final.0", "projection/fc1"),
        ("final.2.weight", "projection/fc2/kernel", TRANSPOSED),
        ("final.2.bias", "projection/fc2/bias", IDENTITY),
        *layer("time_agg_out", "projection/time"),
        *layer("time_agg_out.Wa", "projection/query"),
        *layer("time_agg_out.Va", "projection/score"),
        *layer("output_head.clip.2", "clip_head/fc"),
        *layer("output_head.mse.2", "mse_head/fc"),
    )


NICE = network(TSConv, *temporal_spatial("Enc_eeg.0", "tsconv"), *projector("Proj_eeg", "projector"))
# "encoders.meg": in the code of Défossez et al. 2023
BRAIN_MODULE = network(BrainModule, *brain_module(), aliases=((r"^encoders\.meg\.", "encoder."),))
