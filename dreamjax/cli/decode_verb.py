"""`dreamjax decode`: classify trials of a few classes in left-out people or recordings."""

import argparse
from typing import TYPE_CHECKING

from dreamjax.cli.options import whole_number

if TYPE_CHECKING:
    from dreamjax.evaluation.class_decoding import DecodingResult

HELP = (
    "classify trials in left-out people or recordings, with permutation tests: the baseline that a decoder has to beat"
)
EXAMPLE = "dreamjax decode runs/n170 --labels house face"
NEEDS = ("sklearn",)


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", nargs="+", metavar="SHARDS", help="dataset folders of trials (dreamjax prepare --events)")
    add("--labels", nargs="+", default=[], metavar="LABEL", help="classes (default: all there are)")
    add("--encoder", default="", metavar="RUN", help="a run whose embeddings are tried as well")
    left_out = "what no classifier is trained on (default: subject where three or more are known, else recording)"
    add("--leave-out", choices=("subject", "recording", "session"), default=None, help=left_out)
    permutations = "of labels, for p; 20 or more"
    add("--permutations", type=whole_number(20), default=200, metavar="N", help=permutations)
    add("--seed", type=whole_number(0), default=0, help="of the permutations (default: 0)")
    add("--out", metavar="FOLDER", help="where classes.json goes (default: nowhere)")


def run(args: argparse.Namespace) -> "DecodingResult":
    from dreamjax.evaluation import class_decoding

    lists = tuple(args.data), tuple(args.labels)
    settings = class_decoding.DecodingSettings(*lists, args.encoder, args.permutations, args.seed, args.leave_out)
    return class_decoding.decode(settings, args.out)


def render(result: "DecodingResult") -> str:
    return result.text()
