"""Locate the folders that a run names, after the run or they were moved.

config.json keeps the paths as given; location.json stores where each folder was when training last began, as an
absolute path and as a path relative to the run. So a run finds its data if it was moved together with them, or is used
from another working folder. The path of a folder that is elsewhere now can be given again.
"""

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from dreamjax.errors import UserError, nearest
from dreamjax.runs import provenance
from dreamjax.storage import manifest, presence, replacing, sniffing
from dreamjax.typing import JsonDict

NAME = "location.json"
DATA = ("data.path", "data.folder", "target.folder")
NETWORKS = (  # may be hub ids as well, but for encoder.path, which is a run
    *("encoder.path", "target.embedding.path", "model.path", "model.vae", "model.text_encoder", "model.tokenizer"),
)
CACHES = ("data.bank", "target.bank")  # made again where they are missing
KEYS = (*DATA, *NETWORKS, *CACHES)
RUN = "{run}"  # at the beginning of a path: the run's own folder

Paths = str | list[str]


def absolute(config: JsonDict) -> JsonDict:
    """Return a config with absolute paths of its networks and images, where they are folders here and not hub ids."""
    config = copy.deepcopy(config)
    for key in (*NETWORKS, "target.folder"):
        if (path := _get(config, key)) and "://" not in path and presence.is_folder(path):
            _set(config, key, os.path.abspath(path))
    return config


def keep(begun: JsonDict, now: JsonDict, workdir: epath.PathLike) -> None:
    """Write where the folders of a config are: key → path in config.json → [its path now, as seen from the run]."""
    places = _read(workdir)
    for key in KEYS:
        if value := _get(begun, key):
            before, pairs = places.get(key, {}), zip(_list(value), _list(_get(now, key)), strict=True)
            places[key] = {text: _place(path, key, workdir) or before.get(text, []) for text, path in pairs}
    manifest.write_json(epath.Path(workdir) / NAME, places)


def present(config: JsonDict, workdir: epath.PathLike) -> JsonDict:
    """Return the config.json of the run in `workdir` with the current paths of its folders."""
    places, config = _read(workdir), copy.deepcopy(config)
    for key in KEYS:
        if value := _get(config, key):
            known = places.get(key, {})
            there = [_find(path, known.get(path, ()), key, workdir) for path in _list(value)]
            _set(config, key, there[0] if isinstance(value, str) else there)
    return config


def continued(config: JsonDict, workdir: epath.PathLike) -> tuple[JsonDict, JsonDict]:
    """Return a config with its current paths, and with those that its run in `workdir` was begun with.

    A path counts as unchanged where both name the same folder now, or where it was given again because the old folder
    no longer exists. Other paths are not replaced: a run on other data is another run.
    """
    path = epath.Path(workdir) / "config.json"
    try:
        before = manifest.unsealed(json.loads(path.read_text()), path) if presence.exists(path) else {}
        there = present(before, workdir)
    except (ValueError, TypeError, AttributeError):
        return config, config  # damaged: `training.workdir` reports it
    now, begun = copy.deepcopy(config), copy.deepcopy(config)
    for key in KEYS:
        old, new = _get(there, key), _get(config, key)
        if not old or not new or type(old) is not type(new) or len(_list(old)) != len(_list(new)):
            continue
        pairs = [(_absolute(a), _absolute(b)) for a, b in zip(_list(old), _list(new), strict=True)]
        if new == _get(before, key) and not all(_exists(b) for _, b in pairs):  # meant from another folder
            _set(now, key, old)
        elif all(a == b or (not _exists(a) and _exists(b)) for a, b in pairs):
            _set(begun, key, _get(before, key))
    return now, begun


def relocate(workdir: epath.PathLike, paths: Mapping[str, str | Sequence[str]]) -> None:
    """Store in a run where its folders are now: config key → path, or several paths.

    Raise UserError for a key that is not a folder of the run, for a folder that does not exist, and for a dataset that
    is not the one that the run was trained on.
    """
    config = sniffing.read_json(epath.Path(workdir) / "config.json", "give the work directory of a run")
    now = present(config, workdir)
    for key, value in paths.items():
        old = _get(config, key) if key in KEYS else None
        if not old:
            keys = [known for known in KEYS if _get(config, known)]
            meant = nearest(key, keys) or ", ".join(keys)
            raise UserError(f"{workdir}: {key} is not a folder that the run names; did you mean {meant}?")
        new = [value] if isinstance(value, str) else list(value)
        if missing := [path for path in new if not _exists(path)]:
            raise UserError(f"{missing[0]}: no such folder, which is given for {key} of {workdir}")
        if len(new) != len(_list(old)):
            raise UserError(f"{workdir} has {len(_list(old))} folders as {key}, and {len(new)} are given")
        _set(now, key, new)
    if "data.path" in paths:
        provenance.check(workdir, _get(now, "data.path"))
    keep(config, now, workdir)


def check(config: object, workdir: epath.PathLike, keys: Iterable[str], instead: str = "") -> None:
    """Raise UserError where a folder that an opened run names is missing, with the option that gives its path.

    `instead`: another option of the command, with which the folder is not needed.
    """
    for key in keys:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part, "")
        paths = [value] if isinstance(value, str) else value
        for path in paths:
            if path and key == "data.path":
                replacing.recover(path)
            local = key in (*DATA, "encoder.path") or os.path.isabs(path)  # another one may be a hub id
            if path and local and not _exists(path):
                other = f", or {instead}" if instead and key == "data.path" else ""
                raise UserError(
                    f"{path}: no such folder, which is {key} of {workdir}; say where it is now with "
                    f"--config.{key}=FOLDER{other}"
                )


def _read(workdir: epath.PathLike) -> JsonDict:
    """Return location.json; empty for a run of an older version without it."""
    path = epath.Path(workdir) / NAME
    if not presence.exists(path):
        return {}
    advice = "delete it and give the run's folders with --config.KEY=FOLDER"
    places = sniffing.read_json(path, advice)
    for known in places.values():
        paths = known.values() if isinstance(known, dict) else [None]
        if not all(isinstance(pair, list) and all(isinstance(one, str) for one in pair) for pair in paths):
            raise UserError(f"{path} is damaged; {advice}")
    return places


def _place(path: str, key: str, workdir: epath.PathLike) -> list[str]:
    """Return [absolute path, path from the run]; [] for what is not a local folder."""
    cache = key in CACHES and path != "auto"
    if "://" in f"{path}{workdir}" or not (cache or presence.exists(path)):
        return []
    return [os.path.abspath(path), os.path.relpath(path, workdir)]


def _find(path: str, at: Sequence[str], key: str, workdir: epath.PathLike) -> str:
    """Return where a folder of config.json is now, `at` being its place of before; `path` where that is not known."""
    if path.startswith(f"{RUN}/"):
        return str(epath.Path(workdir) / path.removeprefix(f"{RUN}/"))
    if "://" in f"{path}{workdir}" or path in ("", "auto"):
        return path
    here = Path(os.path.abspath(workdir))
    if at:
        places = [os.path.normpath(here / at[1]), at[0]]
    else:  # a run of a version that kept nothing
        places = [path, *(str(folder / path) for folder in here.parents)]
    there = [place for place in places if _may_be(place)]
    if not there and at and key in CACHES:
        there = [place for place in places if presence.is_folder(os.path.dirname(place))]
    return path if not there or there[0] == os.path.abspath(path) else there[0]


def _may_be(place: str) -> bool:
    """Return whether a folder is there, or may be: where it cannot be read, `check` says so if it is needed."""
    try:
        return presence.exists(place)
    except presence.CannotRead:
        return True


def _get(config: JsonDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _set(config: JsonDict, key: str, value: Paths) -> None:
    *groups, last = key.split(".")
    for group in groups:
        config = config[group]
    config[last] = value


def _list(paths: Paths) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _exists(path: str) -> bool:
    return presence.exists(path)
