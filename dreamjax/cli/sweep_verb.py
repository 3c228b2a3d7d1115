"""`dreamjax sweep`: a description of many runs → all of them trained and scored alike, continued where it was left."""

import argparse
import time
from typing import Any

from dreamjax.cli import config_arguments, options
from dreamjax.errors import UserError

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
    from dreamjax.storage import paths
    from dreamjax.sweeps import partition, sweep_config
    from dreamjax.sweeps import runs as points

    paths.reachable(args.workdir)
    sweep = sweep_config.load(args.config, args.overrides)
    if args.dry_run:
        points.is_claimed(args.workdir, sweep)
    part = partition.read(args.part) if args.part else None
    if part:
        partition.end_with_parent()
    return _search(sweep, args, part) if sweep.settings.search == "tpe" else _list(sweep, args, part)


def _list(sweep: Any, args: argparse.Namespace, part: tuple[int, int] | None) -> dict[str, Any]:
    """A sweep whose points are known."""
    from dreamjax.sweeps import expanding, partition, runner
    from dreamjax.sweeps.runs import Place

    points, together = expanding.expand(sweep, args.workdir), sweep.settings.together

    def own(one: tuple[int, int] | None) -> list[Any]:
        return partition.own(points, together, one) if one else points

    if args.dry_run:
        return expanding.outlook(sweep, own(part), args.workdir) | {"obstacle": runner.obstacle(sweep, lambda: points)}
    runner.prepare(sweep, args.workdir, points)
    if not args.processes:
        return runner.run(sweep, args.workdir, own(part))
    before, started = runner.count_done(args.workdir, points), time.monotonic()
    code = partition.here(_words(args), args.processes, lambda one: [Place.of(args.workdir, p) for p in own(one)])
    return runner.standing(sweep, args.workdir, points, before, time.monotonic() - started) | {"exit_code": code}


def _search(sweep: Any, args: argparse.Namespace, part: tuple[int, int] | None) -> dict[str, Any]:
    """A sweep whose points follow from the scores of earlier ones."""
    from dreamjax.sweeps import partition, runner, searching
    from dreamjax.sweeps.runs import Place

    searching.check(sweep, args.workdir, args.processes or (part[1] if part else 1))
    if args.dry_run:
        found = searching.outlook(sweep, args.workdir)
        return found | {"obstacle": runner.obstacle(sweep, lambda: searching.sample(sweep))}
    runner.prepare(sweep, args.workdir, searching.sample(sweep))
    if not args.processes:
        return searching.run(searching.open_(sweep, args.workdir, part))

    def begun(one: tuple[int, int]) -> list[Place]:
        return [Place.of(args.workdir, point) for point in searching.open_(sweep, args.workdir, one).points()]

    search = searching.open_(sweep, args.workdir)
    before, started = len(search.ended), time.monotonic()
    code = partition.here(_words(args), args.processes, begun)
    return searching.standing(search, before, time.monotonic() - started) | {"exit_code": code}


def jobs(args: argparse.Namespace, wanted: int | None) -> int:
    """How many jobs a sweep is: `wanted`, else one for each point, or for those of one program or one encoder."""
    from dreamjax.sweeps import expanding, partition, searching, sweep_config

    sweep = sweep_config.load(args.config, args.overrides)
    if sweep.settings.search == "tpe":
        if wanted is None:
            raise UserError("points of a search follow from one another: say how many jobs look at once, --parts N")
        searching.check(sweep, args.workdir, wanted)
        return wanted
    return wanted or len(partition.groups(expanding.expand(sweep, None), sweep.settings.together))


def _words(args: argparse.Namespace) -> list[str]:
    overrides = [f"--config.{key}={value}" for key, value in args.overrides]
    return ["--config", args.config, "--workdir", args.workdir, *overrides]


def render(result: dict[str, Any]) -> str:
    from dreamjax.sweeps import expanding, runner

    return expanding.text(result) if "cost" in result else runner.summary(result)
