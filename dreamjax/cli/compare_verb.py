"""`dreamjax compare`: train and score several retrieval systems on the same trials, under one protocol."""

import argparse
from typing import TYPE_CHECKING

from dreamjax.cli.options import whole_number
from dreamjax.errors import UserError

if TYPE_CHECKING:
    from dreamjax.comparison.result import Comparison

HELP = "train and score retrieval systems on the same trials, under one protocol, in one table"
NEEDS = ("matplotlib",)
EXAMPLE = (
    "dreamjax compare --systems ridge,nice --data runs/trials --images images --target openai/clip-vit-large-patch14 "
    "--workdir runs/compare"
)


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--systems", required=True, metavar="NAME,…", help="which systems, NAME or NAME:PRESET")
    add("--workdir", required=True, help="folder of the comparison; continued if it exists")
    add("--protocol", default="honest", metavar="NAME", help="honest, paper, neuralbench or single_trial")
    people = ("in_subject", "joint", "leave_one_out")
    add(
        "--people",
        choices=people,
        help="one model a person, one for all, or tested on the person left out (default: the protocol's)",
    )
    add("--seeds", type=whole_number(1), default=3, metavar="N", help="runs of each system, trained as one program")
    add("--epochs", type=whole_number(1), metavar="N", help="passes over the training trials (default: each system's)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of all systems (data.tmin=0) or of one (nice.optim.learning_rate=1e-3)",
    )

    add = parser.add_argument_group("what is scored in addition").add_argument
    add(
        "--distractors",
        default="",
        metavar="SPLIT|FOLDER",
        help="also score in a gallery with these images: a split of the dataset such as train, or a folder of images "
        "(default: none)",
    )
    add(
        "--transductive",
        action="store_true",
        help="also score by CSLS and by whitening, which know all test trials of a person, in separate rows "
        "(default: no)",
    )
    add(
        "--over-time",
        nargs="?",
        const="ridge",
        default="",
        metavar="NAME,…",
        help="also the accuracy in windows of 100 ms every 25 ms and in growing ones, a model for each: of ridge and "
        "of systems of --systems (without names: ridge; default: no)",
    )
    add(
        "--windows",
        choices=("both", "sliding", "growing"),
        default="both",
        help="which windows; growing ones of a network cost as much as a run each (default: both)",
    )

    add = parser.add_argument_group("the trials and the images that were seen").add_argument
    add("--data", nargs="+", default=[], metavar="SHARDS", help="dataset folders of dreamjax prepare")
    add("--path", default="", metavar="FOLDER", help="a corpus of trials as downloaded, prepared first in WORKDIR/data")
    add("--corpus", default="", metavar="NAME", help="its name, which its files are checked against")
    add("--stimuli", default="", metavar="FOLDER", help="its folder of images, where prepare needs it")
    add("--images", default="", metavar="FOLDER", help="the images that were seen")
    add(
        "--target",
        required=True,
        metavar="MODEL|FILE|NAME",
        help="image vectors: a vision model's folder, a file of vectors with names, or one of colour_histogram, "
        "lbp, hog, fft, fft_log_psd",
    )
    add("--layer", type=int, metavar="N", help="of the vision model (default: its output)")
    add("--pooling", metavar="NAME", help="of that layer (default: the model's)")


def run(args: argparse.Namespace) -> "Comparison":
    from dreamjax import api

    settings = []
    for one in args.set:
        key, equals, value = one.partition("=")
        if not equals:
            raise UserError(f"--set {one}: give it a value, as in --set {one}=VALUE")
        settings.append((key, value))
    names: tuple[str, ...] = (
        "protocol",
        "people",
        "seeds",
        "epochs",
        "images",
        "layer",
        "pooling",
        "corpus",
        "path",
        "stimuli",
    )
    names += ("distractors", "transductive", "windows")
    options = {name: getattr(args, name) for name in names}
    systems, timed = (
        [name.strip() for name in text.split(",") if name.strip()] for text in (args.systems, args.over_time)
    )
    return api.compare(systems, args.data, args.target, args.workdir, settings=settings, over_time=timed, **options)


def render(result: "Comparison") -> str:
    return result.text()
