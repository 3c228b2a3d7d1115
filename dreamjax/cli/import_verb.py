"""`dreamjax import`: a PyTorch checkpoint as a run directory."""

import argparse

from dreamjax.cli.options import positive_number, whole_number

HELP = "read a PyTorch checkpoint (DreamDiffusion's, or an exported folder) into a run directory; runs no code in it"
EXAMPLE = "dreamjax import checkpoint.pth --out runs/dreamdiffusion"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pth file, or a folder from dreamjax export")
    parser.add_argument("--out", required=True, metavar="RUN", help="run directory to write; must not exist")
    parser.add_argument(
        "--part",
        choices=["whole", "encoder"],
        default="whole",
        help="of DreamDiffusion's generative checkpoint: all that makes images, or the encoder alone",
    )
    parser.add_argument(
        "--heads", type=whole_number(1), metavar="N", help="attention heads, where they are not stored in the file"
    )
    parser.add_argument("--decoder-heads", type=whole_number(1), metavar="N", help="attention heads of the decoder")
    parser.add_argument("--divide", type=positive_number, metavar="UV", help="µV per unit of the model's input")
    parser.add_argument(
        "--sfreq", type=positive_number, metavar="HZ", help="sampling rate of the model's input (default: 256)"
    )


def run(args: argparse.Namespace) -> dict[str, object]:
    from dreamjax.export.import_checkpoint import import_checkpoint

    options = {name: getattr(args, name) for name in ("part", "heads", "decoder_heads", "divide", "sfreq")}
    return import_checkpoint(args.checkpoint, args.out, **options).as_json()


def render(result: dict) -> str:
    lines = [f"{result['out']}: {result['format']}, {result['parameters']:,} parameters"]
    common = ("out", "format", "sha256", "parameters", "notes", "seconds")
    lines += [f"{name}: {value or 'none'}" for name, value in result.items() if name not in common]
    if "diffusion" in result:
        lines.append(
            f"images, as published: dreamjax generate --checkpoint {result['out']} --input SHARDS --sampler plms "
            "--steps 250 --guidance 1 --out images"
        )
    return "\n".join(lines)
