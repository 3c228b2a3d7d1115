"""`dreamjax evaluate`: a run → scores on what its training never saw, with baselines and intervals."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from dreamjax.cli.options import number, refuse_beside, refuse_without, whole_number

if TYPE_CHECKING:
    from dreamjax.evaluation.drivers import Result

HELP = "score a run on people or images that its training never saw, with controls and intervals"
NEEDS = ("matplotlib",)
EXAMPLE = "dreamjax evaluate runs/tiny --split test --out runs/tiny/evaluation"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="work directory of dreamjax train")
    parser.add_argument("--data", nargs="+", default=[], metavar="SHARDS", help="dataset folders (default: the run's)")
    parser.add_argument("--split", default="test", help="which split to score (default: test)")
    parser.add_argument("--out", metavar="FOLDER", help="where tables and images go (default: RUN/evaluation)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--step", type=whole_number(0), metavar="N", help="a saved step (default: the newest intact one)"
    )
    which.add_argument("--best", action="store_true", help="the saved step with the best held-out score")
    parser.add_argument("--windows", type=whole_number(1), metavar="N", help="score an even choice of N windows")
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="of masks, intervals, the shown window (default: 0)"
    )
    parser.add_argument(
        "--measure",
        choices=["images", "reconstruction", "retrieval", "prediction", "probe"],
        help="what to score (default: the first of these that the run's system can do)",
    )
    probe = parser.add_argument_group("the frozen linear probe")
    probe.add_argument("--probe", action="store_true", help="pretrain again without each fold's subjects, and probe")
    probe.add_argument("--fold-runs", nargs="+", default=[], metavar="RUN", help="encoders that left out subjects")
    probe.add_argument(
        "--probe-steps", type=whole_number(1), metavar="N", help="of each pretraining (default: the run's)"
    )
    probe.add_argument("--probe-data", metavar="SHARDS", help="the labelled dataset (default: the run's that is)")
    probe.add_argument(
        "--probe-labels", nargs=2, default=["rest", "arithmetic"], metavar="LABEL", help="the two classes"
    )
    probe.add_argument(
        "--with-reconstruction", action="store_true", help="also score every subject by its fold's model"
    )
    probe.add_argument(
        "--folds", type=whole_number(2), default=3, metavar="N", help="how many pretrainings (default: 3)"
    )
    made = parser.add_argument_group("images generated from trials")
    made.add_argument(
        "--trials", type=whole_number(1), metavar="N", help="a number of trials, drawn at random (default: all)"
    )
    made.add_argument("--samples", type=whole_number(1), default=1, metavar="N", help="images of each trial")
    made.add_argument("--steps", type=whole_number(1), default=30, metavar="N", help="of the sampler")
    made.add_argument("--sampler", metavar="NAME", help="see dreamjax generate (default: the model's)")
    made.add_argument("--guidance", type=number(0), default=7.5, metavar="W", help="1: none")
    made.add_argument("--judge", nargs="+", default=[], metavar="FOLDER", help="vision models that compare images")
    made.add_argument("--classifier", metavar="FOLDER", help="a ViT that names them: N-way accuracy")
    made.add_argument("--ways", type=whole_number(2), metavar="N", help="of the N-way accuracy (default: all classes)")
    made.add_argument("--before", nargs="+", default=[], metavar="SHARDS", help="the trials before their images")
    made.add_argument("--free", nargs="+", default=[], metavar="SHARDS", help="continuous signal, for pseudo-blocks")
    made.add_argument(
        "--prompt",
        nargs="+",
        default=["a {label}"],
        metavar="TEXT",
        help="of the baseline that classifies and prompts (default: 'a {label}')",
    )


def run(args: argparse.Namespace) -> "Result":
    from dreamjax.evaluation import drivers

    name = "probe" if args.probe or args.fold_runs else args.measure
    if args.fold_runs:
        refuse_beside("--fold-runs", args, "--folds", "--probe-steps")
    if name is None:
        refuse_without("--probe", args, *drivers.options_of("probe"))
    else:
        refuse_beside(f"the {name}", args, *drivers.options_of(name, others=True))
    driver = drivers.driver_of(args.run, name)
    drivers.refuse_idle(driver, args.given, args.run)
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(args).items()}
    fields = {field.name for field in dataclasses.fields(driver.settings)} & set(given)
    return driver.evaluate(args.run, driver.settings(**{name: given[name] for name in fields}))


def render(result: "Result") -> str:
    return result.text()
