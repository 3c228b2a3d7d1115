"""A table of what was tried, for `docs/reliability.md`: printed at the end of `make test-hostile`."""

from collections import Counter

import pytest

_table: dict[str, Counter[str]] = {}


@pytest.fixture
def tally():
    """`tally(what, result)` counts one try: its result is refused, unchanged or failed."""

    def count(what: str, result: str) -> None:
        _table.setdefault(what, Counter())[result] += 1

    return count


def pytest_terminal_summary(terminalreporter) -> None:
    if _table:
        terminalreporter.section("tries")
        for what, counts in _table.items():
            tries = f"{counts.total()} tries"
            terminalreporter.line(f"{what:40} {tries:>10}: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
