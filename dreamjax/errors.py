"""The one exception that a user's mistake raises: one sentence, no traceback, exit code 2."""


class UserError(Exception):
    """Bad input. The message is one sentence: what, where, what to do."""

    exit_code = 2


class TryAgain(UserError):
    """Nobody's mistake: the same command may go well the next time (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


def nearest(name: str, candidates: list[str] | tuple[str, ...]) -> str | None:
    """The candidate that `name` was most probably meant to be, or None where none is close."""
    import difflib

    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return found[0] if found else None


def missing_package(package: str, extra: str, purpose: str) -> UserError:
    """The error for an absent optional package: `raise missing_package("mne", "data", "reading recordings") from e`."""
    return UserError(f"{purpose} needs the package {package}: pip install 'dreamjax[{extra}]'")
