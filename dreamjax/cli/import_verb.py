"""`dreamjax import`: a PyTorch checkpoint as a run directory."""

import argparse

from dreamjax.cli.options import number, whole_number
from dreamjax.typing import JsonDict

HELP = "read a PyTorch checkpoint (an exported folder, or of a released code) into a run directory; runs no code in it"
EXAMPLE = "dreamjax import checkpoint.pth --out runs/dreamdiffusion"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="a .pth file, or a folder from dreamjax export or with NICE's files")
    add("--out", required=True, metavar="RUN", help="run directory to write; must not exist")
    part = "of DreamDiffusion's generative checkpoint: all that makes images, or the encoder alone"
    add("--part", choices=["whole", "encoder"], default="whole", help=part)
    add("--heads", type=whole_number(1), metavar="N", help="attention heads, where they are not stored in the file")
    add("--decoder-heads", type=whole_number(1), metavar="N", help="attention heads of the decoder")
    add("--divide", type=number(0, above=True), metavar="UV", help="µV per unit of the model's input")
    rate = "sampling rate of the model's input (default: 256)"
    add("--sfreq", type=number(0, above=True), metavar="HZ", help=rate)
    flat = (
        "channels of an encoder that reads a trial as one vector (default: 17, 63 or 271 where a published size fits)"
    )
    add("--channels", type=whole_number(1), metavar="N", help=flat)


def run(args: argparse.Namespace) -> JsonDict:
    from dreamjax import api

    same = {name: getattr(args, name) for name in ("part", "heads", "decoder_heads", "divide", "sfreq", "channels")}
    return api.import_checkpoint(args.checkpoint, args.out, **same).as_json()


def render(result: JsonDict) -> str:
    lines = [f"{result['out']}: {result['format']}, {result['parameters']:,} parameters"]
    common = ("out", "format", "sha256", "parameters", "notes", "seconds")
    lines += [f"{name}: {value or 'none'}" for name, value in result.items() if name not in common]
    if "diffusion" in result:
        lines.append(
            f"images, as published: dreamjax generate --checkpoint {result['out']} --input SHARDS --sampler plms "
            "--steps 250 --guidance 1 --out images"
        )
    return "\n".join(lines)
