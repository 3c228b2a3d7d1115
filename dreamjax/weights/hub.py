"""Locate published weights: a folder, an object store, or a repository of the Hugging Face Hub in its local cache."""

import re

from etils import epath

from dreamjax.console import log
from dreamjax.errors import UserError, missing_package
from dreamjax.storage import manifest, paths, presence
from dreamjax.weights import weight_files

ANSWER_S = 10.0  # after which the Hub counts as not reachable
PATHS = (".safetensors", ".json", *weight_files.PICKLED)  # endings of a file that is not there, rather than of a hub id
DESCRIPTIONS = (".json", ".txt", ".model")  # configs, tokenizers, indices
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def resolve(name_or_path: epath.PathLike, variant: str | None = None) -> epath.Path:
    """Return a folder with weights: the path itself, or the snapshot of a hub id `owner/name[@revision]`.

    Of a repository, configs, tokenizers and one set of weights per folder are fetched: safetensors, and pickles only
    where there is nothing else; those of `variant` where it exists. HF_HUB_OFFLINE, HF_HOME and HF_TOKEN have their
    usual meaning. Where the Hub does not answer, the cache is used.

    Raises UserError for a folder that does not exist, an id that neither the Hub nor the cache has, and a folder that
    `dreamjax export` wrote and that has changed since.
    """
    text = str(name_or_path)
    place = paths.reachable(name_or_path)
    place = place if "://" in text else place.expanduser()
    if presence.exists(place):
        manifest.check_export(place)
        return place
    match = HUB_ID.fullmatch(text)
    if match is None or ".." in text or text.endswith(PATHS):
        raise UserError(
            f"{text}: no such folder, and not a hub id, which has the form owner/name or owner/name@revision"
        )
    snapshot = epath.Path(_snapshot(match[1], match[2], text, variant))
    manifest.check_export(snapshot)
    return snapshot


def _snapshot(repository: str, revision: str | None, text: str, variant: str | None) -> str:
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants
    except ImportError as problem:
        raise missing_package("huggingface_hub", "data", f"{text} is not a local folder, and fetching it") from problem
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            # asked first, with a time limit, which snapshot_download does not set
            listed = hub.HfApi().model_info(repository, revision=revision, timeout=ANSWER_S).siblings or []
        except Exception as problem:  # of the HTTP library's own kinds, which change with the version of the hub
            reason = _reason(problem)
        else:
            names = _wanted([file.rfilename for file in listed], variant)
            only = [re.sub(r"([*?[])", r"[\1]", name) for name in names]
            try:  # those in the cache are not fetched again
                return hub.snapshot_download(repository, revision=revision, allow_patterns=only, etag_timeout=ANSWER_S)
            except Exception as problem:  # a connection that was lost, a full disk, …
                raise UserError(
                    f"{text} could not be fetched ({_reason(problem)}); try again, it continues where it stopped"
                ) from problem
    try:
        # which files were fetched before is not known, so only these are required
        snapshot = hub.snapshot_download(
            repository, revision=revision, local_files_only=True, allow_patterns=["config.json", "model_index.json"]
        )
    except Exception as problem:
        raise UserError(
            f"{text} is not a local folder and not in the cache {constants.HF_HUB_CACHE}, and it cannot be fetched "
            f"({reason}): name a folder, or fetch it where there is a network (hf download) and copy the cache"
        ) from problem
    if not constants.HF_HUB_OFFLINE:
        log.warning("%s is read from the cache as it was fetched last, because it cannot be fetched (%s)", text, reason)
    return snapshot


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
    """Return the files of a repository to fetch."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file)
    if "model_index.json" in names:  # a pipeline: files next to its index are the same weights again, in one file
        folders[""] = [file for file in folders[""] if file.endswith(DESCRIPTIONS)]
    chosen = []
    for folder, inside in folders.items():
        weights = _weights(inside, variant)
        keep = [file for file in inside if file.endswith(DESCRIPTIONS) or file in weights]
        chosen += [f"{folder}/{file}" if folder else file for file in keep]
    if not any(name.endswith((".safetensors", *weight_files.PICKLED)) for name in chosen):
        for endings in ((".safetensors",), weight_files.PICKLED):
            if others := [name for name in names if name.endswith(endings)]:
                return [*chosen, *others]
    return chosen


def _weights(names: list[str], variant: str | None) -> set[str]:
    """Return the files of one set of weights of a folder: the variant's, else the plain one, else every variant."""
    available = weight_files.weight_sets(names)
    for asked in (variant, None):
        if those := [weights for weights in available if weights.variant == asked]:
            return those[0].files(names)
    safe = [weights for weights in available if ".safetensors" in weights.name]
    return {name for weights in safe or available for name in weights.files(names)}
