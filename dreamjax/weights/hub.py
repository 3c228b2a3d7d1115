"""Where published weights lie: a folder, an object store, or a repository of the Hugging Face Hub in its cache here."""

import re

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError, missing_package
from dreamjax.storage import paths
from dreamjax.weights import weight_files

ANSWER_S = 10.0  # after which the Hub counts as not reachable
PATHS = (".safetensors", ".json", *weight_files.PICKLED)  # endings of a file that is not there, rather than of a hub id
DESCRIPTIONS = (".json", ".txt", ".model")  # configs, tokenizers, indices
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def resolve(name_or_path: epath.PathLike, variant: str | None = None) -> epath.Path:
    """A folder with weights: the path itself, or that of the snapshot of a hub id `owner/name[@revision]`.

    Of a repository come the descriptions, the tokenizers and one set of weights a folder: safetensors, and pickles only
    where there is nothing else; those of `variant` where there is one. HF_HUB_OFFLINE, HF_HOME and HF_TOKEN count as
    everywhere. Where the Hub does not answer, the cache does.

    Raises UserError, one sentence, for a folder that does not exist and an id that neither the Hub nor the cache has.
    """
    text = str(name_or_path)
    place = paths.reachable(name_or_path)
    place = place if "://" in text else place.expanduser()
    if place.exists():
        return place
    match = HUB_ID.fullmatch(text)
    if match is None or ".." in text or text.endswith(PATHS):
        raise UserError(f"{text}: no such folder, and no hub id, which would be owner/name or owner/name@revision")
    return epath.Path(_snapshot(match[1], match[2], text, variant))


def _snapshot(repository: str, revision: str | None, text: str, variant: str | None) -> str:
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants
    except ImportError as problem:
        raise missing_package("huggingface_hub", "data", f"{text} is no folder here, and fetching it") from problem
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            # asked first, with a limit of time: snapshot_download sets none for its own question
            listed = hub.HfApi().model_info(repository, revision=revision, timeout=ANSWER_S).siblings or []
        except Exception as problem:  # of the HTTP library's own kinds, which change with the version of the hub
            reason = _reason(problem)
        else:
            return _fetched(repository, revision, _wanted([file.rfilename for file in listed], variant), text)
    try:
        # which files were wanted when it was fetched is not known here, so only these have to be there
        found = hub.snapshot_download(
            repository, revision=revision, local_files_only=True, allow_patterns=["config.json", "model_index.json"]
        )
    except Exception as problem:
        raise UserError(
            f"{text} is no folder here and not in the cache {constants.HF_HUB_CACHE}, and it cannot be fetched "
            f"({reason}): name a folder, or fetch it where there is a network (hf download) and copy the cache"
        ) from problem
    if not constants.HF_HUB_OFFLINE:
        log.warning("%s is read from the cache as it was fetched last, for it cannot be fetched (%s)", text, reason)
    return found


def _fetched(repository: str, revision: str | None, names: list[str], text: str) -> str:
    """The snapshot with these files in it; those that are in the cache are not fetched again."""
    import huggingface_hub as hub

    patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in names]  # of these names alone
    try:
        return hub.snapshot_download(repository, revision=revision, allow_patterns=patterns, etag_timeout=ANSWER_S)
    except Exception as problem:  # a connection that was lost, a full disk, …
        raise UserError(
            f"{text} could not be fetched ({_reason(problem)}); try again, it goes on where it was"
        ) from problem


def _reason(problem: Exception) -> str:
    kind = type(problem).__name__
    known = {
        "GatedRepoError": "its owner gives it to those who agreed to its terms: do so on its page, then hf auth login",
        "RepositoryNotFoundError": "the Hub has no such repository, or it is private: check the name, or hf auth login",
        "RevisionNotFoundError": "the repository has no such revision",
    }
    if kind in known:
        return known[kind]
    lines = str(problem).strip().splitlines() or [kind]
    return f"{kind}: {lines[0]:.200}"


def _wanted(names: list[str], variant: str | None) -> list[str]:
    """The files of a repository that are fetched."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file)
    if "model_index.json" in names:  # a pipeline: what lies beside its index is the same weights once more, in one file
        folders[""] = [file for file in folders[""] if file.endswith(DESCRIPTIONS)]
    chosen = []
    for folder, inside in folders.items():
        weights = _weights(inside, variant)
        keep = [file for file in inside if file.endswith(DESCRIPTIONS) or file in weights]
        chosen += [f"{folder}/{file}" if folder else file for file in keep]
    if not any(_is_weights(name) for name in chosen):
        for endings in ((".safetensors",), weight_files.PICKLED):
            if others := [name for name in names if name.endswith(endings)]:
                return [*chosen, *others]
    return chosen


def _weights(names: list[str], variant: str | None) -> set[str]:
    """The files of one set of weights of a folder: the variant's, else the plain one, else every variant there is."""
    found = weight_files.sets(names)
    for asked in (variant, None):
        if those := [weights for weights in found if weights.variant == asked]:
            return those[0].files(names)
    safe = [weights for weights in found if ".safetensors" in weights.name]
    return {name for weights in safe or found for name in weights.files(names)}


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", *weight_files.PICKLED))
