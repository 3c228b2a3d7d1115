"""The exchange with PyTorch: what a system gives to an export, and which checkpoints it takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from etils import epath

from dreamjax.systems.base import Run
from dreamjax.training.task import PyTree

Format = Literal["torch", "diffusers"]
FileContent: TypeAlias = str | Mapping[str, Any] | epath.Path  # text, fields of JSON, a file or folder to copy


@dataclass(frozen=True)
class Component:
    """A network in the layout of another library: config.json, named tensors, further files."""

    config: Mapping[str, Any] | epath.Path  # fields of config.json, or a file that is copied
    tensors: Mapping[str, Any]  # anything with `shape` and `dtype` that `np.asarray` reads
    files: Mapping[str, FileContent] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """The content of one format's folder, apart from the files of every export (model card, provenance, hashes).

    `check`: Python source that a process without JAX runs in the folder, with `p` (the parity arrays as tensors) and
    `difference(tensor, name)` in scope; it leaves in `differences` the largest relative difference of each output.
    """

    components: Mapping[str, Component]  # by sub-folder; "" for the folder itself
    parity: Mapping[str, np.ndarray]  # named arrays that dreamjax computed
    check: str
    files: Mapping[str, FileContent] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)  # for programs, added to every export
    parameters: int | None = None  # where they are not those of the run alone
    measured: Mapping[str, float] = field(default_factory=dict)  # numbers that the command reports
    tolerance: float | None = None  # of the largest magnitude; None: that of the format
    # of README.md; origin, corpora and licence are added where the template has room for them
    title: str = "A model trained with dreamjax"
    usage: str = ""  # lines of Python
    rows: Mapping[str, Any] = field(default_factory=dict)  # of a table
    compared: str = "inputs, and what dreamjax computed from them"  # content of parity.safetensors
    template: str = "reports/templates/export_card.md.j2"  # a path within this package
    values: Mapping[str, Any] = field(default_factory=dict)  # for a template other than the common one


class Exports(Protocol):
    """A run → a folder for PyTorch."""

    formats: ClassVar[tuple[Format, ...]]

    def export(self, run: Run, format: Format) -> Exported:
        """Return the content of the folder of one of `formats`."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of another program, opened without executing anything."""

    source: str  # its name in messages
    tensors: Mapping[str, Any]  # by name, read when asked for
    settings: Mapping[str, Any]  # config.json of a folder, or the attributes of a pickled configuration
    exported: bool = False  # whether it is a folder of `dreamjax export`


@dataclass(frozen=True)
class ImportOptions:
    """Settings given by the user for what a checkpoint does not state; None where not given."""

    part: Literal["whole", "encoder"] = "whole"
    heads: int | None = None
    decoder_heads: int | None = None
    divide: float | None = None  # µV per unit of the model's input
    sfreq: float | None = None  # Hz
    channels: int | None = None  # of an encoder that reads a trial as one vector


@dataclass(frozen=True)
class Imported:
    """The run that a checkpoint becomes."""

    format: str  # name of the kind of checkpoint
    config: Any
    params: PyTree
    parameters: int
    description: Mapping[str, str | None] = field(default_factory=dict)  # of the model, for the command
    notes: Sequence[str] = ()  # what was assumed or left out
    provenance: Mapping[str, Any] = field(default_factory=dict)
    step: int = 1  # 0 means untrained
    write: Callable[[epath.Path], None] | None = None  # puts further files into the run's folder


class Imports(Protocol):
    """A folder that `export` wrote, or a checkpoint of another program → a run."""

    @classmethod
    def imported(cls, checkpoint: Checkpoint, options: ImportOptions) -> Imported | None:
        """Return the run, None for a checkpoint of another kind. Raise UserError naming every tensor that misfits."""
