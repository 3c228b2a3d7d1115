"""`dreamjax decode`: trials of a few classes → how well they can be told, in recordings that were left out."""

import argparse
from typing import Any

from dreamjax.cli.options import whole_number

HELP = "tell classes of trials in recordings that were left out, with permutation tests: what a decoder has to beat"
EXAMPLE = "dreamjax decode runs/n170 --labels house face"
NEEDS = ("sklearn",)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="+", metavar="SHARDS", help="dataset folders of trials (dreamjax prepare --events)"
    )
    parser.add_argument("--labels", nargs="+", default=[], metavar="LABEL", help="classes (default: all there are)")
    parser.add_argument("--encoder", default="", metavar="RUN", help="a run of masked pretraining, to be tried as well")
    parser.add_argument(
        "--permutations", type=whole_number(20), default=200, metavar="N", help="of labels, for p; 20 or more"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the permutations (default: 0)")
    parser.add_argument("--out", metavar="FOLDER", help="where classes.json goes (default: nowhere)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.evaluation import class_decoding

    request = class_decoding.Request(tuple(args.data), tuple(args.labels), args.encoder, args.permutations, args.seed)
    return class_decoding.decode(request, args.out)


def render(result: dict[str, Any]) -> str:
    from dreamjax.evaluation import class_decoding

    return class_decoding.text(result)
