"""The documents stay true: links lead somewhere, and every command shown is one that the verbs accept."""

import re
import shlex
from pathlib import Path

import pytest

from dreamjax.cli import config_arguments
from dreamjax.cli import main as cli
from dreamjax.sweeps import sweep_config

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([REPOSITORY / "README.md", *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("configs/**/*.py")])
SHELL = {"|", ">", "&&", ";", "||", "&"}


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def commands(text: str) -> list[str]:
    """Lines of code blocks (fenced, or indented by four) that begin with `dreamjax`, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found, fenced = [], False
    for line in joined.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            words = line.strip().removeprefix("$ ")
            if words.startswith("dreamjax "):
                found.append(words.partition("  #")[0])
    return found


def anchors(text: str) -> set[str]:
    """GitHub's anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


SHOWN = [(name_of(p), c) for p in DOCUMENTS for c in commands(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        missing_anchor = anchor and place.suffix == ".md" and anchor not in anchors(place.read_text(encoding="utf-8"))
        if not place.exists() or missing_anchor:
            broken.append(target)
    assert broken == []


def test_the_way_from_recording_to_torch_is_shown():
    assert {shlex.split(c)[1] for n, c in SHOWN if n == "README.md"} >= {"prepare", "train", "evaluate", "export"}


@pytest.mark.parametrize(("document", "command"), SHOWN, ids=[f"{n}-{i}" for i, (n, _) in enumerate(SHOWN)])
def test_a_command_that_is_shown_is_one_that_works(document, command, monkeypatch):
    """Options exist, their values are of their kind, the config file and its keys exist."""
    words = shlex.split(command)[1:]
    end = next((i for i, w in enumerate(words) if w in SHELL or w.startswith((">", "2>"))), len(words))
    words = words[:end]
    if words[-1] in ("--help", "--version") or "VERB" in words:
        return
    args = cli.parsed(words)
    if getattr(args, "config", None):
        monkeypatch.chdir(REPOSITORY)
        if args.verb == "sweep":
            sweep_config.load(args.config, args.overrides)
        else:
            config_arguments.load(args)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_nothing_is_left_to_be_filled_in(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"\b(?:TODO|TBD|FIXME|RESULTS\S*|recipe to follow)\b|being written", text) == []
