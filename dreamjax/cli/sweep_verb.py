"""`dreamjax sweep`: a description of many runs → all of them trained and scored alike, continued where it was left."""

import argparse
from typing import Any

from dreamjax.cli import config_arguments, options

HELP = "train and score every point of a sweep, from where its work directory stands"
EXAMPLE = (
    "dreamjax sweep --config configs/sweep/mask_ratio.py --workdir runs/ratios --config.base.data.path=runs/shards"
)


def configure(parser: argparse.ArgumentParser) -> None:
    config_arguments.add(parser)
    parser.add_argument("--workdir", required=True, help="folder of the sweep: its points; continued if it exists")
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--processes", type=options.whole_number(1), metavar="N", help="so many at once, here")
    several.add_argument("--part", metavar="I/N", help="only what the I-th of N would run, as in an array of jobs")
    parser.add_argument("--dry-run", action="store_true", help="show the points and what they cost, and run nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.sweeps import description, driving, expanding, parts

    sweep = description.load(args.config, args.overrides)
    points = expanding.expand(sweep, args.workdir)
    own = parts.own(points, sweep.settings.together, parts.read(args.part)) if args.part else points
    if args.dry_run:
        return expanding.outlook(sweep, own, args.workdir)
    driving.prepare(sweep, args.workdir, points)
    if args.processes:
        return parts.here(sweep, points, args.workdir, args.processes, _words(args))
    return driving.run(sweep, args.workdir, own)


def _words(args: argparse.Namespace) -> list[str]:
    overrides = [f"--config.{key}={value}" for key, value in args.overrides]
    return ["--config", args.config, "--workdir", args.workdir, *overrides]


def render(result: dict[str, Any]) -> str:
    from dreamjax.sweeps import driving, expanding

    return expanding.text(result) if "cost" in result else driving.summary(result)
