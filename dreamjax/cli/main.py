"""`dreamjax VERB …`: parse, call one function, print its result. Exit 0, 2 for a user's mistake, 75 when preempted."""

import argparse
import contextlib
import errno
import importlib
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
from dreamjax.cli import options
from dreamjax.console import configure_logging
from dreamjax.errors import TryAgain, UserError, missing_module, nearest, require
from dreamjax.interruption import raise_on_signal
from dreamjax.parallel.environment import COORDINATOR, WATCHED, end_with_parent

# verb → module of dreamjax.cli, in the order of work. A module has HELP, EXAMPLE, configure(parser), run(args) -> dict,
# and render(result) -> str for people; it imports what it needs inside run, so that help and mistakes answer at once.
# Optional packages that it requires are listed in NEEDS.
VERBS = (
    *("simulate", "prepare", "inspect", "plan", "launch", "train", "sweep", "report"),
    *("compare", "evaluate", "decode", "generate", "export", "import"),
)
JOINING = ("train", "sweep")  # verbs that may be one of several processes of a run
PLACES = ("out", "workdir")  # options that name what is written
DISK = (  # errors of a full, protected or failing disk, and of a file where a folder should be
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG),
    *(errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE),
)


# ------------------------------------------------------------------------------------------------------------- parsing
class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence and exit code 2, like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A formatter that keeps the example's lines and shows informative defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, text = action.default, action.help or ""
        silent = default is None or default is False or default == argparse.SUPPRESS or default in ("", [])
        if silent or not action.option_strings or "default" in text:
            return action.help
        words = default if isinstance(default, list | tuple) else [default]
        return f"{text} (default: {' '.join(map(str, words)).replace('%', '%%')})".strip()


def _verb_module(verb: str) -> ModuleType:
    return importlib.import_module(f"dreamjax.cli.{verb}_verb")


def _configure(sub: argparse.ArgumentParser, module: ModuleType) -> None:
    sub.description, sub.epilog = module.HELP, f"example:\n  {module.EXAMPLE}"
    sub.formatter_class = _HelpFormatter
    module.configure(sub)
    sub.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
    sub.add_argument("--verbose", action="store_true", help="also show what the libraries log")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; with `only`, one verb's arguments are added and the other verbs' modules not imported.

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
        text, module = "", None
        if only in (None, verb):
            try:
                module = _verb_module(verb)
                text = module.HELP
            except Exception as problem:
                if only is not None:
                    raise
                text = f"(cannot be used here: {problem})"
        sub = verbs.add_parser(verb, help=text.replace("%", "%%"), allow_abbrev=False)
        if module is not None:
            _configure(sub, module)
    return parser


def _actions(parser: argparse.ArgumentParser, verb: str) -> dict[str, argparse.Action]:
    """Return the options of one verb, as written on the command line."""
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return subparsers.choices[verb]._option_string_actions


def _split_command(argv: Sequence[str], verb: str | None) -> tuple[Sequence[str], list[str]]:
    """Return the words of the verb itself, and those after `--` if it takes another command there."""
    taken = getattr(_verb_module(verb), "TAKES_COMMAND", ()) if verb is not None else ()
    if taken and "--" in argv:
        at = list(argv).index("--")
        return argv[:at], list(argv[at + 1 :])
    if command := next((word for word in argv[1:] if word in taken), None):
        raise UserError(f"what dreamjax {verb} is to run comes after --, as in: dreamjax {verb} … -- {command} …")
    return argv, []


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one verb; no file is read.

    Raise UserError for an unknown option, naming the nearest one, before argparse reports missing ones; and for an
    empty value, which in a script is an unset variable and would count as an option that was not given.
    """
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        hint = nearest(verb, VERBS)
        meant = f"did you mean {hint}?" if hint else f"the verbs are {', '.join(VERBS)}"
        raise UserError(f"there is no verb {verb}; {meant}")
    verb_words, command = _split_command(argv, verb)
    overrides, words = options.split_overrides(verb_words)
    parser, given = build_parser(only=verb), options.given(words)
    known = _actions(parser, verb) if verb is not None else {}
    for name in given if verb is not None else ():
        if name not in known:
            hint = nearest(name, [option for option in known if option.startswith("--")])
            meant = f"did you mean {hint}?" if hint else f"see dreamjax {verb} --help"
            raise UserError(f"dreamjax {verb} has no option {name}; {meant}")
    args = parser.parse_args(words)
    if overrides and not hasattr(args, "override_help"):
        raise UserError(f"dreamjax {args.verb} takes no --config")
    for option, action in known.items():
        if option in given and getattr(args, action.dest) == "" and action.default != "":
            raise UserError(f"{option} is empty; give it a value or leave it out")
    args.overrides, args.given, args.command = overrides, given, command
    return args


# -------------------------------------------------------------------------------------------------------------- output
@contextlib.contextmanager
def _stdout_is_for_the_result() -> Iterator[None]:
    """Redirect to stderr what is printed within the block, also by C libraries and child processes."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, AttributeError):  # replaced by a test or a notebook
            if sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2:
                sys.stdout.flush()
                saved = os.dup(1)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, 1)
                os.dup2(2, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Make SIGTERM end the verb as Control-C does, so that nothing half-written stays; training handles both itself."""
    defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    ours = [number for number, handler in defaults.items() if signal.getsignal(number) is handler]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with raise_on_signal(ours, lambda n: SystemExit(128 + n) if n == signal.SIGTERM else KeyboardInterrupt()):
        yield


def plain(value: Any) -> Any:
    """Return `value` for JSON: arrays as lists, NaN and infinity as null, paths and anything else as text."""
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
    end_with_parent()
    args = parsed(argv)
    configure_logging(args.verbose)
    for path in filter(None, (getattr(args, option, None) for option in PLACES)):
        from dreamjax.storage import paths

        paths.refuse_unwritable(path)  # before the work, not after it
    if args.verb in JOINING and os.environ.get(COORDINATOR) and not os.environ.get(WATCHED):
        from dreamjax.parallel import watcher  # JAX aborts a process whose peers are absent or gone: a parent says why

        command = [sys.executable, "-m", "dreamjax", *argv]
        return watcher.run_one(command, grace_s=math.inf).code  # a save takes as long as it takes
    module = _verb_module(args.verb)
    for package in getattr(module, "NEEDS", ()):
        require(package, f"dreamjax {args.verb}")
    ours = contextlib.nullcontext() if args.command else _stdout_is_for_the_result()  # else it is the command's
    with ours, _signals_unwind():
        result = module.run(args)
    data = result.as_json() if hasattr(result, "as_json") else result
    text = json.dumps(plain(data)) if args.json else module.render(result)
    if text:
        encoding = sys.stdout.encoding or "utf-8"  # the name of a file may hold what the terminal cannot show
        print(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
    return int(data.get("exit_code", 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code of the process."""
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
    """Return (exit code, one sentence) for an exception; None for a defect of dreamjax, which shows its traceback."""
    if isinstance(problem, UserError):
        return problem.exit_code, str(problem)
    if isinstance(problem, ModuleNotFoundError) and (missing := missing_module(problem)):
        return missing.exit_code, str(missing)
    if isinstance(problem, KeyboardInterrupt):
        return 130, f"interrupted; {problem}" if str(problem) else "interrupted"
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
    if isinstance(problem, OSError) and problem.errno in DISK:
        where = f"{problem.filename}: " if problem.filename else ""
        return 2, f"{where}{os.strerror(problem.errno)}; nothing half-written was kept"
    return None


def _leave_others(code: int, problem: BaseException | None = None) -> None:
    """End this one of several processes now: a normal exit would wait for the others, which wait for this one."""
    if "jax" in sys.modules:
        from dreamjax.parallel import processes

        if processes.are_several():
            if problem is not None:
                traceback.print_exception(problem)
            processes.leave(code)


if __name__ == "__main__":
    sys.exit(main())
