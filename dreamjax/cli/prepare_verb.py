"""`dreamjax prepare`: recordings → shards."""

import argparse
from typing import Any

HELP = "turn recordings (files, folders, BIDS roots) into sharded records ready for training"
EXAMPLE = "dreamjax prepare study/ --out runs/study"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="recordings, folders or BIDS roots")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the dataset folder to write")
    parser.add_argument(
        "--workers", type=int, default=None, metavar="N", help="child processes (default: one per core)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.signals.prepare import Options, prepare

    return prepare(args.paths, args.out, options=Options(workers=args.workers, verbose=args.verbose))


def render(result: dict[str, Any]) -> str:
    return str(result)
