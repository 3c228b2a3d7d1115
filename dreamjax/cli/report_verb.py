"""`dreamjax report`: a sweep's folder → its ranking."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamjax.sweeps.summary import SweepSummary

HELP = "rank a sweep's points, with intervals, paired tests and cost; write tables, figures and the best config"
EXAMPLE = "dreamjax report runs/ratios"
NEEDS = ("plotly", "matplotlib")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="work directory of dreamjax sweep")
    parser.add_argument("--out", metavar="FOLDER", help="where the report goes (default: SWEEP/report)")


def run(args: argparse.Namespace) -> "SweepSummary":
    from dreamjax.storage import paths
    from dreamjax.sweeps import summary, writing

    paths.reachable(args.sweep)
    return writing.write(summary.summarise(args.sweep), args.out)


def render(result: "SweepSummary") -> str:
    from dreamjax.sweeps import writing

    return writing.text(result)
