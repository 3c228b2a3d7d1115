"""What is known about a public corpus that its files do not say, or say wrongly."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Corpus:
    """Facts about one corpus, applied to the files whose path matches `path`.

    The unit override is the only thing that changes a signal, so it carries its evidence, and a file that merely
    resembles the corpus must not match: `path` names the corpus's own folder and file names.
    """

    name: str
    path: str  # regular expression, searched in the POSIX path
    licence: str  # SPDX id
    source: str  # where it is published, and the paper
    subject: str | None = None  # regular expression over the path; group 1 is the subject's id
    session: str | None = None
    conditions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # path regex → condition
    codes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # event code → its meaning
    unit_scale: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # reader → factor
    evidence: str = ""  # why the header's unit is wrong
    reference: str | None = None
    line_freq: float | None = None  # Hz
    design: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # what of the experiment matters
    impossible: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # control → why it cannot be

    def matches(self, path: str) -> bool:
        return re.search(self.path, path) is not None

    def condition(self, path: str) -> str | None:
        """The condition of a whole recording, where the corpus says it in the file's name."""
        return next((label for pattern, label in self.conditions.items() if re.search(pattern, path)), None)
