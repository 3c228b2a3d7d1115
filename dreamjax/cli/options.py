"""Types of options, checks of options together, and `--config`; shared by the verbs."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from dreamjax.errors import UserError

CONFIG = "--config."


# ---------------------------------------------------------------------------------------------------- types of argparse
def whole_number(least: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to the largest 32-bit integer."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"{value} is not a whole number from {least} to {2**31 - 1}")
        return value

    return parse


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Return a parser of finite numbers from `least` to `most`; `above`: greater than `least`."""
    within = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (least <= value <= most and math.isfinite(value)) or (above and value == least):
            raise argparse.ArgumentTypeError(f"{text} is not a number {f'above {least:g}' if above else within}")
        return value

    return parse


# ----------------------------------------------------------------------------------------------------- options together
def given(words: Sequence[str]) -> tuple[str, ...]:
    """Return the long options on a command line, as they are written there."""
    before = words[: words.index("--")] if "--" in words else words
    return tuple(word.partition("=")[0] for word in before if word.startswith("--"))


def refuse_without(needed: str, args: argparse.Namespace, *names: str) -> None:
    """Raise UserError where one of the options `names`, which have no effect without `needed`, was given."""
    if idle := [name for name in names if name in args.given]:
        raise UserError(f"{' and '.join(idle)} would do nothing without {needed}; add {needed} or leave out {idle[0]}")


def refuse_beside(other: str, args: argparse.Namespace, *names: str) -> None:
    """Raise UserError where one of the options `names`, which have no effect with `other`, was given."""
    if idle := [name for name in names if name in args.given]:
        raise UserError(f"{' and '.join(idle)} would have no effect with {other}; leave out one or the other")


# ------------------------------------------------------------------------------------------------------------- --config
def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare `--config FILE.py[:argument=value]` and, for the help page, `--config.key=value`."""
    metavar, example = "FILE.py[:ARG=VALUE,…]", "override one key, for example --config.optim.learning_rate=1e-4"
    parser.add_argument("--config", required=True, metavar=metavar, help="the run's config file")
    parser.add_argument("--config.KEY", dest="override_help", metavar="VALUE", help=example)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Declare `--config.key=folder` of a verb that opens a run."""
    text = "where a folder that the run names is now, which it keeps, for example --config.data.path=SHARDS"
    parser.add_argument("--config.KEY", dest="override_help", metavar="FOLDER", help=text)


def split_overrides(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return ([(dotted key, text)], the other words). Only the config file knows the keys, so argparse cannot do it."""
    overrides, others = [], []
    words = iter(argv)
    for word in words:
        if not word.startswith(CONFIG):
            others.append(word)
            continue
        key, equals, text = word.removeprefix(CONFIG).partition("=")
        value = text if equals else next(words, None)
        if value is None:
            raise UserError(f"{word} wants a value: {word}=VALUE")
        overrides.append((key, value))
    return overrides, others


def load_config(args: argparse.Namespace) -> Any:
    """Return the frozen dataclass that the command line describes."""
    from dreamjax import api

    return api.read_config(args.config, args.overrides)


def relocate(run: str, args: argparse.Namespace) -> None:
    """Store in a run the folders that the command line gives."""
    if args.overrides:
        from dreamjax import api

        api.relocate(run, {key: text.split(",") for key, text in args.overrides})
