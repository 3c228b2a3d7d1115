"""Encoders of brain signals: how each is built from its sizes, and its names in the released code.

NICE's two files (Enc_eeg and Proj_eeg) are one set of tensors here, each under its file's name.
"""

import inspect
import re

from flax import nnx

from dreamjax.errors import UserError
from dreamjax.models.brain_module import BrainModule
from dreamjax.models.channel_tokens import ATM
from dreamjax.models.conv_baselines import Deep4Net, EEGNet, ShallowFBCSPNet
from dreamjax.models.projections import ENIGMA, EEGProject
from dreamjax.models.temporal_spatial import TSConv
from dreamjax.weights.config_json import Arguments, Config
from dreamjax.weights.networks import Network
from dreamjax.weights.table import IDENTITY, KERNEL, NameRows, Table, Transform, batch_norm, fused, layer, layers

TWICE = Transform(IDENTITY.axes, ones=2)
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


def projector(torch: str, path: str, inner: str = "fn") -> NameRows:
    """Return the rows of `ResidualProjector`; `inner`: what the code calls the residual's function."""
    names = (("0", "fc"), (f"1.{inner}.1", "residual"), ("2", "norm"))
    return tuple(row for theirs, ours in names for row in layer(f"{torch}.{theirs}", f"{path}/{ours}"))


def channel_attention(torch: str, path: str) -> NameRows:
    """Return the rows of NICE's attention over sensors, of both kinds."""
    rows: NameRows = layer(f"{torch}.fn.0", f"{path}/norm")
    for name in ("query", "key", "projection"):
        rows += layer(f"{torch}.fn.1.{name}.0", f"{path}/{name}/fc")
        rows += layer(f"{torch}.fn.1.{name}.1", f"{path}/{name}/norm")
    return (
        *rows,
        (f"{torch}.fn.0.conv1.lin.weight", f"{path}/fc/kernel", KERNEL),
        (f"{torch}.fn.0.conv1.att_src", f"{path}/source", TWICE),
        (f"{torch}.fn.0.conv1.att_dst", f"{path}/target", TWICE),
        (f"{torch}.fn.0.conv1.bias", f"{path}/bias", IDENTITY),
    )


def token_transformer(torch: str, path: str) -> NameRows:
    """Return the rows of ATM's embedding and transformer."""
    block, embedding = f"{torch}.encoder.attn_layers.{{i}}", f"{torch}.enc_embedding"
    heads = [f"{block}.attention.{name}_projection" for name in ("query", "key", "value")]
    names = (("attention.out_projection", "attention.out"), "norm1", "norm2", ("conv1", "fc1"), ("conv2", "fc2"))
    return (
        *layer(f"{embedding}.value_embedding", f"{path}embed"),
        (f"{embedding}.subject_embedding.subject_embedding.weight", f"{path}people", IDENTITY),
        (f"{embedding}.subject_embedding.shared_embedding", f"{path}shared", IDENTITY),
        *fused(heads, f"{path}blocks/{{i}}/attention/qkv"),
        *layers(block, f"{path}blocks/{{i}}", *names),
        *layer(f"{torch}.encoder.norm", f"{path}norm"),
    )


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


NICE = network(
    TSConv,
    *temporal_spatial("Enc_eeg.0", "tsconv"),
    *projector("Proj_eeg", "projector"),
    *channel_attention("attention", "attention"),
    # with attention the released code counts on: it is 0, the convolutions 1
    aliases=((r"^Enc_eeg\.0\.fn\.", "attention.fn."), (r"^Enc_eeg\.1\.", "Enc_eeg.0."), (r"\.lin_src\.", ".lin.")),
)
UNUSED = (  # by ATM's code, which stores them
    "subject_wise_linear",
    "encoder.enc_embedding.mask_token",
    "encoder.enc_embedding.subject_embedding.mask_embedding",
    "encoder.enc_embedding.position_embedding",
    "encoder.enc_embedding.temporal_embedding",
)
ATM_S = network(
    ATM,
    *token_transformer("encoder", ""),
    *temporal_spatial("enc_eeg.0", "tsconv"),
    *projector("proj_eeg", "projector"),
    ignored=f"{COUNTS}|logit_scale|({'|'.join(map(re.escape, UNUSED))}).*",
    aliases=((r"\.linear([12])\.", r".conv\1."),),
)
EEG_PROJECT = network(
    EEGProject,
    *projector("model", "projector", "f"),
    ignored="logit_scale",
    aliases=((r"^brain\.", ""), (r"\.fn\.", ".f.")),  # "brain": of UBP's checkpoints, which Lightning writes
)
ENIGMA_CNN = network(
    ENIGMA,
    ("subject_layers.{i}.weight", "kernel", KERNEL),
    ("subject_layers.{i}.bias", "bias", IDENTITY),
    *temporal_spatial("enc_eeg.0", "tsconv"),
    *projector("proj_eeg", "projector"),
)
ROUTER = (  # of SAMGA: rows of `LayerRouter`
    ("router.global_logits", "router/logits", IDENTITY),
    ("router.subject_bias.weight", "router/bias", IDENTITY),
)
CLASSIFIER = (r"^final_layer\.conv_classifier\.", "conv_classifier.")  # of newer versions of braindecode
FIRST = (r"^conv_time_spat\.", "")  # likewise


def time_then_sensors(path: str) -> NameRows:
    """Return the rows of `TimeThenSensors` in braindecode's names."""
    return *layer("conv_time", f"{path}/time"), *layer("conv_spat", f"{path}/sensors")


SHALLOW = network(
    ShallowFBCSPNet,
    *time_then_sensors("conv"),
    *batch_norm("bnorm", "norm"),
    *layer("conv_classifier", "readout"),
    aliases=(CLASSIFIER, FIRST),
)
DEEP4 = network(
    Deep4Net,
    *time_then_sensors("blocks/0/conv"),
    *batch_norm("bnorm", "blocks/0/norm"),
    *(row for i in (1, 2, 3) for row in layer(f"conv_{i + 1}", f"blocks/{i}/conv")),
    *(row for i in (1, 2, 3) for row in batch_norm(f"bnorm_{i + 1}", f"blocks/{i}/norm")),
    *layer("conv_classifier", "readout"),
    aliases=(CLASSIFIER, FIRST),
)
EEGNET = network(
    EEGNet,
    *layers("", "", ("conv_temporal", "temporal"), ("conv_spatial", "spatial"), ("conv_separable_depth", "depth")),
    *layers("", "", ("conv_separable_point", "point"), ("conv_classifier", "readout")),
    *batch_norm("bnorm_temporal", "temporal_norm"),
    *batch_norm("bnorm_1", "spatial_norm"),
    *batch_norm("bnorm_2", "point_norm"),
    aliases=(CLASSIFIER,),
)
# "encoders.meg": in the code of Défossez et al. 2023
BRAIN_MODULE = network(BrainModule, *brain_module(), aliases=((r"^encoders\.meg\.", "encoder."),))
