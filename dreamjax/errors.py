"""The exceptions that a user's mistake raises: one sentence, no traceback, exit code 2."""

EXTRAS = {  # optional package, by the name that is imported → extra of setup.py that installs it
    "PIL": "data",
    "edfio": "data",
    "h5py": "data",
    "huggingface_hub": "data",
    "mne": "data",
    "pyxdf": "data",
    "sklearn": "data",
    "tensorflow_datasets": "data",
    "tokenizers": "data",
    "matplotlib": "report",
    "tensorboardX": "report",
    "diffusers": "torch",
    "torch": "torch",
    "transformers": "torch",
    "optuna": "sweep",
    "plotly": "sweep",
    "wandb": "wandb",
}


class UserError(Exception):
    """Bad input. The message is one sentence: what, where, what to do."""

    exit_code = 2


class MissingSplit(UserError):
    """A dataset lacks a split that a command needs."""


class TryAgain(UserError):
    """A temporary failure: the same command may succeed the next time (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


def nearest(name: str, candidates: list[str] | tuple[str, ...]) -> str | None:
    """Return the candidate that `name` was probably meant to be, or None where none is close."""
    import difflib

    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return matches[0] if matches else None


def missing_package(package: str, extra: str, purpose: str) -> UserError:
    """Return the error for an absent optional package.

    Example: `raise missing_package("mne", "data", "reading recordings") from e`.
    """
    return UserError(f"{purpose} needs the package {package}: pip install 'dreamjax[{extra}]'")


def require(package: str, purpose: str) -> None:
    """Raise UserError where an optional package is not installed: before long work that needs it only at its end."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise missing_package(package, EXTRAS[package], purpose)


def missing_module(problem: ModuleNotFoundError) -> UserError | None:
    """Return the error for a failed import of an optional package, or None for any other module."""
    package = (problem.name or "").partition(".")[0]
    return missing_package(package, EXTRAS[package], "this command") if package in EXTRAS else None
