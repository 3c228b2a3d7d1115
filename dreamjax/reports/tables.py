"""Format tables as text: for a terminal, a page, a model card, a spreadsheet."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

NOTHING = "–"  # in place of a number that is not known


class HasJson(Protocol):
    """A result with an `estimate` and its bounds `low` and `high`, such as an interval."""

    def as_json(self) -> Mapping[str, object]: ...


Estimate = Mapping[str, object] | HasJson | None


@dataclass(frozen=True)
class Table:
    """A header and rows of cells, all of them text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return columns padded to their widest cell, over a rule."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        rows = (self.header, ["-" * width for width in widths], *self.rows)
        lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown, which the Hub reads too."""
        header, *rows = (
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (self.header, *self.rows)
        )
        return "\n".join([header, "|" + "---|" * len(self.header), *rows])


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return comma-separated values; numbers stay numbers."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def cell(value: Estimate, signed: bool = False) -> str:
    """Return `0.610 [0.550, 0.670]`, or the estimate alone where there is no interval."""
    bounds = value if value is None or isinstance(value, Mapping) else value.as_json()
    if bounds is None or bounds["estimate"] is None:
        return NOTHING
    names, form = ("estimate", "low", "high"), "+.3f" if signed else ".3f"
    estimate, low, high = ("" if bounds[name] is None else format(bounds[name], form) for name in names)
    return f"{estimate} [{low}, {high}]" if low else estimate


def number(value: float | None, form: str = ".3f") -> str:
    """Return a number in a format, or a dash where it is unknown."""
    return NOTHING if value is None else format(value, form)
