"""`dreamjax decode`: trials of a few classes → how well they are classified in left-out recordings."""

import argparse
from typing import TYPE_CHECKING

from dreamjax.cli.options import whole_number

if TYPE_CHECKING:
    from dreamjax.evaluation.class_decoding import DecodingResult

HELP = "classify trials in left-out recordings, with permutation tests: the baseline that a decoder has to beat"
EXAMPLE = "dreamjax decode runs/n170 --labels house face"
NEEDS = ("sklearn",)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="+", metavar="SHARDS", help="dataset folders of trials (dreamjax prepare --events)"
    )
    parser.add_argument("--labels", nargs="+", default=[], metavar="LABEL", help="classes (default: all there are)")
    parser.add_argument("--encoder", default="", metavar="RUN", help="a run whose embeddings are tried as well")
    parser.add_argument(
        "--permutations", type=whole_number(20), default=200, metavar="N", help="of labels, for p; 20 or more"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the permutations (default: 0)")
    parser.add_argument("--out", metavar="FOLDER", help="where classes.json goes (default: nowhere)")


def run(args: argparse.Namespace) -> "DecodingResult":
    from dreamjax.evaluation import class_decoding

    settings = class_decoding.DecodingSettings(
        tuple(args.data), tuple(args.labels), args.encoder, args.permutations, args.seed
    )
    return class_decoding.decode(settings, args.out)


def render(result: "DecodingResult") -> str:
    return result.text()
