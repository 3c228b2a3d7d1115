"""`dreamjax sweep`: a description of many runs → all of them trained and scored alike, continued where it was left."""

import argparse
from typing import Any

from dreamjax.cli import config_arguments

HELP = "train and score every point of a sweep, from where its work directory stands"
EXAMPLE = (
    "dreamjax sweep --config configs/sweep/mask_ratio.py --workdir runs/ratios --config.base.data.path=runs/shards"
)


def configure(parser: argparse.ArgumentParser) -> None:
    config_arguments.add(parser)
    parser.add_argument("--workdir", required=True, help="folder of the sweep: its points; continued if it exists")
    parser.add_argument("--dry-run", action="store_true", help="show the points and what they cost, and run nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.sweeps import description, driving, expanding

    sweep = description.load(args.config, args.overrides)
    points = expanding.expand(sweep, args.workdir)
    if args.dry_run:
        return expanding.outlook(sweep, points, args.workdir)
    return driving.run(sweep, args.workdir, points)


def render(result: dict[str, Any]) -> str:
    from dreamjax.sweeps import driving, expanding

    return expanding.text(result) if "cost" in result else driving.summary(result)
