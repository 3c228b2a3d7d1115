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
        "--heads", type=whole_number(1), metavar="N", help="attention heads, where the file does not say"
    )
    parser.add_argument("--decoder-heads", type=whole_number(1), metavar="N", help="those of the decoder")
    parser.add_argument("--divide", type=positive_number, metavar="UV", help="µV per unit of the model's input")
    parser.add_argument(
        "--sfreq", type=positive_number, metavar="HZ", help="sampling rate of the model's input (default: 256)"
    )


def run(args: argparse.Namespace) -> dict:
    from dreamjax.export import import_checkpoint

    return import_checkpoint.import_checkpoint(
        args.checkpoint,
        args.out,
        part=args.part,
        heads=args.heads,
        decoder_heads=args.decoder_heads,
        divide=args.divide,
        sfreq=args.sfreq,
    )


def render(result: dict) -> str:
    decoder = f"decoder {result['decoder']}" if result["decoder"] else "no decoder"
    lines = [
        f"{result['out']}: {result['format']}, {result['parameters']:,} parameters",
        f"encoder {result['encoder']}, {decoder}, {result['positions']} positions; {result['input']}",
    ]
    if "diffusion" in result:
        lines.append(result["diffusion"])
        lines.append(
            f"images, as published: dreamjax generate --checkpoint {result['out']} --input SHARDS --sampler plms "
            "--steps 250 --guidance 1 --out images"
        )
    return "\n".join(lines)
