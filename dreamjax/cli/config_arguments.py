"""`--config FILE.py[:argument=value]` and `--config.key=value`, shared by every verb that takes a config."""

import argparse
from collections.abc import Sequence
from typing import Any

from dreamjax import config
from dreamjax.errors import UserError

PREFIX = "--config."


def add(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Declare `--config` and, for the help page, its overrides."""
    parser.add_argument("--config", required=required, metavar="FILE.py[:ARG=VALUE,…]", help="the run's config file")
    parser.add_argument(
        "--config.KEY",
        dest="override_help",
        metavar="VALUE",
        help="override one key, for example --config.optim.learning_rate=1e-4",
    )


def split_overrides(argv: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """`([(dotted key, text)], the other words)`. Only the config file says which keys exist, so argparse cannot."""
    overrides, others = [], []
    words = iter(argv)
    for word in words:
        if not word.startswith(PREFIX):
            others.append(word)
            continue
        key, equals, text = word.removeprefix(PREFIX).partition("=")
        if not equals:
            following = next(words, None)
            if following is None:
                raise UserError(f"{word} wants a value: {word}=VALUE")
            text = following
        overrides.append((key, text))
    return overrides, others


def load(args: argparse.Namespace) -> Any:
    """The frozen dataclass that the command line describes."""
    from dreamjax.systems import registry

    return config.load(args.config, args.overrides, registry.schema_of)
