"""Text snapshots of every shipped config; `python -m tests.golden` (make golden) rewrites them."""

from pathlib import Path

from dreamjax import config
from dreamjax.systems import registry

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent


def shipped() -> list[Path]:
    """Every config file, relative to the repository."""
    return sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "configs").rglob("*.py"))


def snapshot_path(path: Path) -> Path:
    return FOLDER / ("-".join(path.with_suffix("").parts[1:]) + ".txt")


def render(path: Path) -> str:
    """What a config file means with its default arguments."""
    return config.dump(config.load(str(REPOSITORY / path), [], registry.schema_of))


def write() -> list[Path]:
    """Rewrite all snapshots; those of configs that are gone are removed."""
    wanted = {snapshot_path(path): render(path) for path in shipped()}
    for old in FOLDER.glob("*.txt"):
        if old not in wanted:
            old.unlink()
    for target, text in wanted.items():
        target.write_text(text, encoding="utf-8")
    return list(wanted)
