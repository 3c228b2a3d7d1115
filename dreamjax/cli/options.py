"""What an option takes, and which options belong together; shared by the verbs."""

import argparse
import math
from collections.abc import Callable, Sequence

from dreamjax.errors import UserError


def whole_number(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` up to what 32 bits hold."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= number < 2**31:
            raise argparse.ArgumentTypeError(f"{number} is not a whole number from {least} to {2**31 - 1}")
        return number

    return parse


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """An argparse type: a finite number from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (least <= value <= most and math.isfinite(value)):
            within = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"
            raise argparse.ArgumentTypeError(f"{text} is not a number {within}")
        return value

    return parse


def positive_number(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def given(words: Sequence[str]) -> tuple[str, ...]:
    """The long options among the words of a command line, as they are spelt there."""
    before = words[: words.index("--")] if "--" in words else words
    return tuple(word.partition("=")[0] for word in before if word.startswith("--"))


def refuse_without(needed: str, args: argparse.Namespace, *names: str) -> None:
    """Raises UserError where one of the options `names`, which do nothing without `needed`, was given."""
    if idle := [name for name in names if name in args.given]:
        raise UserError(f"{' and '.join(idle)} would do nothing without {needed}; add {needed} or leave out {idle[0]}")


def refuse_beside(other: str, args: argparse.Namespace, *names: str) -> None:
    """Raises UserError where one of the options `names`, which do nothing beside `other`, was given."""
    if idle := [name for name in names if name in args.given]:
        raise UserError(f"{' and '.join(idle)} would do nothing beside {other}; leave out one or the other")
