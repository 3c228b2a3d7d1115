"""`dreamjax evaluate`: a run → scores on subjects that its training never saw, with baselines and intervals."""

import argparse
from typing import Any

HELP = "score a run on subjects that its training never saw, beside baselines, with intervals"
EXAMPLE = "dreamjax evaluate runs/tiny --split test --out runs/tiny/evaluation"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="work directory of dreamjax train")
    parser.add_argument("--data", nargs="+", default=[], metavar="SHARDS", help="dataset folders (default: the run's)")
    parser.add_argument("--split", default="test", help="which split to score (default: test)")
    parser.add_argument("--out", metavar="FOLDER", help="where tables and pictures go (default: RUN/evaluation)")
    parser.add_argument("--step", type=int, metavar="N", help="a saved step (default: the newest intact one)")
    parser.add_argument("--best", action="store_true", help="the saved step with the best held-out score")
    parser.add_argument("--windows", type=int, metavar="N", help="score an even choice of N windows")
    parser.add_argument("--seed", type=int, default=0, help="of masks, intervals and the pictured window (default: 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from dreamjax.systems import measurement

    request = measurement.Request(
        tuple(args.data), args.split, args.step, args.best, args.windows, args.seed, out=args.out
    )
    return measurement.evaluate(args.run, request)


def render(result: dict[str, Any]) -> str:
    from dreamjax.evaluation import report

    return report.text(result)
