"""`dreamjax evaluate`: a run → scores on subjects that its training never saw, with baselines and intervals."""

import argparse
from typing import Any

from dreamjax.cli.options import refuse_beside, refuse_without, whole_number

HELP = "score a run on subjects that its training never saw, beside baselines, with intervals"
EXAMPLE = "dreamjax evaluate runs/tiny --split test --out runs/tiny/evaluation"
OF_RECONSTRUCTION = ("--data", "--split", "--step", "--best", "--windows")
OF_PROBE = ("--folds", "--probe-steps", "--probe-data", "--probe-labels", "--with-reconstruction")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="work directory of dreamjax train")
    parser.add_argument("--data", nargs="+", default=[], metavar="SHARDS", help="dataset folders (default: the run's)")
    parser.add_argument("--split", default="test", help="which split to score (default: test)")
    parser.add_argument("--out", metavar="FOLDER", help="where tables and pictures go (default: RUN/evaluation)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--step", type=whole_number(0), metavar="N", help="a saved step (default: the newest intact one)"
    )
    which.add_argument("--best", action="store_true", help="the saved step with the best held-out score")
    parser.add_argument("--windows", type=whole_number(1), metavar="N", help="score an even choice of N windows")
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="of masks, intervals, the pictured window (default: 0)"
    )
    probe = parser.add_argument_group("the frozen linear probe, in place of reconstruction")
    probe.add_argument("--probe", action="store_true", help="pretrain anew without each fold's subjects, and probe")
    probe.add_argument("--fold-runs", nargs="+", default=[], metavar="RUN", help="encoders that left out subjects")
    probe.add_argument(
        "--probe-steps", type=whole_number(1), metavar="N", help="of each pretraining (default: the run's)"
    )
    probe.add_argument("--probe-data", metavar="SHARDS", help="the labelled dataset (default: the run's that is)")
    probe.add_argument("--probe-labels", nargs=2, default=["rest", "arithmetic"], metavar="LABEL", help="what to tell")
    probe.add_argument(
        "--with-reconstruction", action="store_true", help="also score every subject by its fold's model"
    )
    probe.add_argument(
        "--folds", type=whole_number(2), default=3, metavar="N", help="how many pretrainings (default: 3)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.systems import measurement, probing

    if not (args.probe or args.fold_runs):
        refuse_without("--probe", args, *OF_PROBE)
    else:
        refuse_beside("the probe", args, *OF_RECONSTRUCTION)
        if args.fold_runs:
            refuse_beside("--fold-runs", args, "--folds", "--probe-steps")
        labels = (args.probe_labels[0], args.probe_labels[1])
        wanted = probing.ProbeRequest(
            args.probe_data,
            labels,
            args.folds,
            tuple(args.fold_runs),
            args.with_reconstruction,
            args.probe_steps,
            args.seed,
            out=args.out,
        )
        return probing.evaluate(args.run, wanted)
    request = measurement.Request(
        tuple(args.data), args.split, args.step, args.best, args.windows, args.seed, out=args.out
    )
    return measurement.evaluate(args.run, request)


def render(result: dict[str, Any]) -> str:
    from dreamjax.evaluation import report

    return report.text(result)
