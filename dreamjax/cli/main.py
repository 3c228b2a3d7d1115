"""`dreamjax VERB …`: parse, call one function, print its result. Exit 0, 2 for a user's mistake, 75 when preempted."""

import argparse
import contextlib
import errno
import importlib
import io
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from dreamjax import __version__
from dreamjax.cli import config_arguments, options
from dreamjax.console import configure_logging
from dreamjax.errors import TryAgain, UserError, missing_module, nearest, require

# verb → module of dreamjax.cli, in the order of work. A module has HELP, EXAMPLE, configure(parser), run(args) -> dict,
# and render(result) -> str for people; it imports what it needs inside run, so that help and mistakes answer at once.
# Optional packages without which it cannot end are listed in NEEDS.
VERBS = (
    "simulate",
    "prepare",
    "inspect",
    "plan",
    "launch",
    "train",
    "sweep",
    "report",
    "evaluate",
    "decode",
    "generate",
    "export",
    "import",
)
FULL_DISK_AND_THE_LIKE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG)
PLACES = ("out", "workdir")  # options that name what is written
A_FILE_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # of a folder that was to be written


# ------------------------------------------------------------------------------------------------------------- parsing
class _Parser(argparse.ArgumentParser):
    """argparse whose mistakes are one sentence and exit 2 like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the example's lines, and tells the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        help_text = action.help or ""
        says_nothing = any(action.default is d for d in (None, False, argparse.SUPPRESS)) or action.default in ("", [])
        if says_nothing or not action.option_strings or "default" in help_text:
            return action.help
        words = action.default if isinstance(action.default, list | tuple) else [action.default]
        default = " ".join(map(str, words)).replace("%", "%%")
        return f"{help_text} (default: {default})".strip()


def _verb_module(verb: str) -> ModuleType:
    return importlib.import_module(f"dreamjax.cli.{verb}_verb")


def _add_verb(verbs: Any, verb: str, module: ModuleType) -> None:
    sub = verbs.add_parser(
        verb,
        help=module.HELP.replace("%", "%%"),
        description=module.HELP,
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    module.configure(sub)
    sub.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    sub.add_argument("--verbose", action="store_true", help="also show what the libraries log")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole parser, or (`only`) with one verb's arguments filled in and the others' modules not imported.

    A verb whose module cannot be imported is listed with the reason, and does not keep the others from working.
    """
    parser = _Parser(
        prog="dreamjax",
        description="Brain signals to images, in JAX. The verbs, in the order of work:",
        epilog="dreamjax VERB --help shows a verb's arguments and an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dreamjax {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for verb in VERBS:
        if only is not None and verb != only:
            verbs.add_parser(verb)
            continue
        try:
            module = _verb_module(verb)
        except Exception as problem:
            if only is not None:
                raise
            verbs.add_parser(verb, help=f"(cannot be used here: {problem})".replace("%", "%%"))
            continue
        _add_verb(verbs, verb, module)
    return parser


def _verb_parser(parser: argparse.ArgumentParser, verb: str) -> argparse.ArgumentParser:
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return subparsers.choices[verb]


def _options(parser: argparse.ArgumentParser, verb: str) -> list[str]:
    """The long options of one verb."""
    return [option for option in _verb_parser(parser, verb)._option_string_actions if option.startswith("--")]


def _refuse_unknown_options(words: Sequence[str], verb: str, known: Sequence[str]) -> None:
    """Before argparse, which would first complain of what is missing."""
    for name in options.given(words):
        if name not in known:
            hint = nearest(name, list(known))
            meant = f"did you mean {hint}?" if hint else f"see dreamjax {verb} --help"
            raise UserError(f"dreamjax {verb} has no option {name}; {meant}")


def _refuse_empty(args: argparse.Namespace, parser: argparse.ArgumentParser, verb: str) -> None:
    """An option's empty value is a variable of a script that was not set, and would pass for an option not given."""
    for option, action in _verb_parser(parser, verb)._option_string_actions.items():
        if option in args.given and getattr(args, action.dest) == "" and action.default != "":
            raise UserError(f"{option} is empty; give it a value or leave it out")


def _refuse_unwritable(args: argparse.Namespace) -> None:
    """Said before the work, not after it."""
    for option in PLACES:
        if path := getattr(args, option, None):
            from dreamjax.storage import paths

            paths.refuse_unwritable(path)


def _split_command(argv: Sequence[str], verb: str | None) -> tuple[Sequence[str], list[str]]:
    """The words of the verb itself, and those after `--` where it takes another command there."""
    module = _verb_module(verb) if verb is not None else None
    if not (taken := getattr(module, "TAKES_COMMAND", ())):
        return argv, []
    if "--" not in argv:
        if command := next((word for word in argv[1:] if word in taken), None):
            raise UserError(f"what dreamjax {verb} is to run comes after --, as in: dreamjax {verb} … -- {command} …")
        return argv, []
    at = list(argv).index("--")
    return argv[:at], list(argv[at + 1 :])


def check(argv: Sequence[str]) -> None:
    """Raises UserError for a command that its verb would not take; no file is looked at."""
    parsed(argv)


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one verb. Raises UserError for what it does not know, naming the nearest it does."""
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        hint = nearest(verb, VERBS)
        meant = f"did you mean {hint}?" if hint else f"the verbs are {', '.join(VERBS)}"
        raise UserError(f"there is no verb {verb}; {meant}")
    verb_words, command = _split_command(argv, verb)
    overrides, words = config_arguments.split_overrides(verb_words)
    parser = build_parser(only=verb)
    if verb is not None:
        _refuse_unknown_options(words, verb, _options(parser, verb))
    args = parser.parse_args(words)
    if overrides and not hasattr(args, "config"):
        raise UserError(f"dreamjax {args.verb} takes no --config")
    args.overrides, args.given, args.command = overrides, options.given(words), command
    _refuse_empty(args, parser, args.verb)
    return args


# -------------------------------------------------------------------------------------------------------------- output
@contextlib.contextmanager
def _stdout_is_for_the_result() -> Iterator[None]:
    """What anything prints meanwhile, a library written in C or a child process too, goes to stderr."""
    try:
        ours = sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2
    except (OSError, io.UnsupportedOperation, AttributeError):  # replaced by a test or a notebook
        ours = False
    if not ours:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends the verb as Control-C does, so that nothing half-written stays; training has its own way."""
    if (
        signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def leave(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def plain(value: Any) -> Any:
    """`value` as JSON has it: arrays as lists, NaN and infinity as null, paths and anything else as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return plain(value.tolist())
    return str(value)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv:
        build_parser().print_help()
        return 0
    args = parsed(argv)
    configure_logging(args.verbose)
    _refuse_unwritable(args)
    module = _verb_module(args.verb)
    for package in getattr(module, "NEEDS", ()):
        require(package, f"dreamjax {args.verb}")
    ours = contextlib.nullcontext() if args.command else _stdout_is_for_the_result()  # else it is the command's
    with ours, _sigterm_unwinds():
        result = module.run(args)
    data = result.as_json() if hasattr(result, "as_json") else result
    text = json.dumps(plain(data)) if args.json else module.render(result)
    if text:
        print(text)
    sys.stdout.flush()
    return int(data.get("exit_code", 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the process's exit code."""
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except (Exception, KeyboardInterrupt) as problem:
        ending = _ending(problem)
        if ending is None:
            _leave_others(1, problem)
            raise
        code, sentence = ending
        if sentence:
            print(f"dreamjax: {sentence}", file=sys.stderr)
        _leave_others(code)
        return code


def _ending(problem: BaseException) -> tuple[int, str] | None:
    """(exit code, one sentence) of what ended a verb; None for a defect of ours, which shows its traceback."""
    if isinstance(problem, UserError):
        return problem.exit_code, str(problem)
    if isinstance(problem, ModuleNotFoundError) and (missing := missing_module(problem)):
        return missing.exit_code, str(missing)
    if isinstance(problem, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(problem, BrokenPipeError):  # `dreamjax … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0, ""
    if isinstance(problem, RuntimeError) and str(problem).startswith("RESOURCE_EXHAUSTED"):
        reason = str(problem).partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ")
        return 2, f"{reason}; take a smaller batch or smaller images, or more devices"
    if isinstance(problem, RuntimeError) and "jax" in sys.modules:  # JAX's own, which are not imported here
        from dreamjax.parallel import processes

        lost = processes.lost_peer(problem)
        return (TryAgain.exit_code, lost) if lost else None
    if isinstance(problem, OSError) and problem.errno in FULL_DISK_AND_THE_LIKE + A_FILE_IN_THE_WAY:
        where = f"{problem.filename}: " if problem.filename else ""
        return 2, f"{where}{os.strerror(problem.errno)}; nothing half-written was kept"
    return None


def _leave_others(code: int, problem: BaseException | None = None) -> None:
    """Of several processes, end this one now: the end of Python would wait for the others, which wait for this one."""
    if "jax" in sys.modules:
        from dreamjax.parallel import processes

        if processes.are_several():
            if problem is not None:
                traceback.print_exception(problem)
            processes.leave(code)


if __name__ == "__main__":
    sys.exit(main())
