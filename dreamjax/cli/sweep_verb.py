"""`dreamjax sweep`: train and score many runs in the same way, from one description; continued where it stopped."""

import argparse
from typing import TYPE_CHECKING

from dreamjax.cli import options
from dreamjax.errors import UserError

if TYPE_CHECKING:
    from dreamjax.sweeps.runner import SweepProgress
    from dreamjax.sweeps.samplers import DryRun

HELP = "train and score every run of a sweep; continue one that was interrupted"
EXAMPLE = (
    "dreamjax sweep --config configs/sweep/mask_ratio.py --workdir runs/ratios --config.base.data.path=runs/shards"
)


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_config(parser)
    parser.add_argument("--workdir", required=True, help="folder of the sweep and its runs; continued if it exists")
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        "--processes", type=options.whole_number(1), metavar="N", help="runs at the same time on this machine"
    )
    several.add_argument("--part", metavar="I/N", help="only what the I-th of N would run, as in an array of jobs")
    parser.add_argument("--dry-run", action="store_true", help="show the runs and what they cost, and run nothing")


def run(args: argparse.Namespace) -> "DryRun | SweepProgress":
    from dreamjax.storage import paths
    from dreamjax.sweeps import partition, runner, samplers, sweep_config
    from dreamjax.sweeps.run_folder import RunFolder
    from dreamjax.sweeps.study import Study

    paths.reachable(args.workdir)
    study = Study(
        sweep_config.load(args.config, args.overrides), args.workdir, args.part and partition.parse(args.part)
    )
    if args.dry_run:
        study.is_claimed()
        return samplers.dry_run(samplers.of(study, args.processes))
    if study.part:
        partition.end_with_parent()
    sampler = samplers.of(study, args.processes)
    study.prepare(sampler.sample())
    if not args.processes:
        return runner.run(sampler)
    words = ["--config", args.config, "--workdir", args.workdir]
    words += [f"--config.{key}={value}" for key, value in args.overrides]

    def folders(part: partition.Part) -> list[RunFolder]:
        return [study.folder(run) for run in samplers.of(Study(study.sweep, study.workdir, part)).runs()]

    return runner.called(sampler, lambda: partition.start(words, args.processes, folders))


def jobs(args: argparse.Namespace, wanted: int | None) -> int:
    """Return the number of jobs of a sweep: `wanted`, else one per run, or per group with one program or encoder."""
    from dreamjax.sweeps import partition, runs, samplers, sweep_config

    sweep = sweep_config.load(args.config, args.overrides)
    if sweep.settings.search == "tpe":
        if wanted is None:
            raise UserError("runs of a search follow from one another: give the number of jobs at once, --parts N")
        samplers.check_search(sweep, args.workdir, wanted)
        return wanted
    return wanted or len(partition.groups(runs.expand(sweep), sweep.settings.together))


def render(result: "DryRun | SweepProgress") -> str:
    return result.text()
