"""`dreamjax export`: a run as a folder that PyTorch users load in one line."""

import argparse

from dreamjax.cli import options
from dreamjax.typing import JsonDict

HELP = "write a trained run as a folder for PyTorch, or for diffusers and transformers: weights, card, parity file"
EXAMPLE = "dreamjax export runs/tiny --to torch --out exported/tiny"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN", help="work directory of dreamjax train or dreamjax import")
    add("--to", choices=["torch", "diffusers"], default="torch", help="what to export to")
    add("--out", required=True, metavar="DIR", help="folder to write; must not exist")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="N", help="a saved step (default: the newest)")
    which.add_argument("--best", action="store_true", help="the step with the best held-out score")
    averaged = "averaged weights where the run kept them, or the last ones"
    add("--weights", choices=["ema", "params"], default="ema", help=averaged)
    add("--licence", metavar="ID", help="licence of the weights; a permissive one is refused over restricted corpora")
    options.add_folders(parser)


def run(args: argparse.Namespace) -> JsonDict:
    from dreamjax import api

    if args.to == "diffusers":
        options.refuse_beside("--to diffusers", args, "--licence")
    options.relocate(args.run, args)
    same = {name: getattr(args, name) for name in ("to", "step", "best", "weights", "licence")}
    return api.export(args.run, args.out, **same).as_json()


def render(result: JsonDict) -> str:
    lines = [f"{result['out']}: step {result['step']}, {result['parameters']:,} parameters ({result['weights']})"]
    if result["differences"] is None:
        lines.append("not compared with PyTorch, which is not installed here")
    else:
        differences = ", ".join(f"{name} {value:.1e}" for name, value in result["differences"].items())
        lines.append(f"largest relative differences to PyTorch: {differences} (at most {result['tolerance']:g})")
    return "\n".join(lines)
