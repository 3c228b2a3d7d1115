"""`dreamjax VERB …`: parse, call one function, print its result. Exit 0, 2 for a user's mistake, 75 when preempted."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence

from dreamjax import __version__
from dreamjax.cli import config_arguments
from dreamjax.console import configure_logging
from dreamjax.errors import UserError

# verb → module of dreamjax.cli, in the order of work. A module has HELP, EXAMPLE, configure(parser), run(args) -> dict,
# and render(result) -> str for people; it is imported only when its verb is used or the help is shown.
VERBS = ("simulate", "prepare", "inspect", "train", "evaluate", "export", "import")


class _Parser(argparse.ArgumentParser):
    """argparse whose mistakes are one sentence and exit 2 like all others."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message} (see {self.prog} --help)")


def _verb_module(verb: str):  # type: ignore[no-untyped-def]
    return importlib.import_module(f"dreamjax.cli.{verb}_verb")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole parser, or (`only`) with one verb's arguments filled in and the others' modules not imported."""
    parser = _Parser(prog="dreamjax", description="Brain signals to images, in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"dreamjax {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for verb in VERBS:
        if only is not None and verb != only:
            verbs.add_parser(verb)
            continue
        module = _verb_module(verb)
        sub = verbs.add_parser(
            verb,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.configure(sub)
        sub.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
        sub.add_argument("--verbose", action="store_true", help="also show what the libraries log")
    return parser


def _dispatch(argv: Sequence[str]) -> int:
    verb = next((word for word in argv if not word.startswith("-")), None)
    overrides, words = config_arguments.split_overrides(argv)
    args = build_parser(only=verb if verb in VERBS else None).parse_args(words)
    if overrides and not hasattr(args, "config"):
        raise UserError(f"dreamjax {args.verb} takes no --config")
    args.overrides = overrides
    configure_logging(args.verbose)
    module = _verb_module(args.verb)
    result = module.run(args)
    if args.json:
        print(json.dumps(result, default=str))
    else:
        text = module.render(result)
        if text:
            print(text)
    return int(result.get("exit_code", 0))


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except UserError as mistake:
        print(f"dreamjax: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dreamjax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `dreamjax … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:
        import errno

        if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            where = f"{problem.filename}: " if problem.filename else ""
            print(f"dreamjax: {where}{os.strerror(problem.errno)}; nothing half-written was kept", file=sys.stderr)
            return 2
        raise


if __name__ == "__main__":
    sys.exit(main())
