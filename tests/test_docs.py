"""The pages are true: links resolve, the commands shown are accepted by the verbs, and the names in code exist."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dreamjax.cli import main as cli
from dreamjax.cli import options
from dreamjax.sweeps import sweep_config

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
DOCUMENTS = sorted([*PAGES, *REPOSITORY.glob("configs/**/*.py")])
SHELL = {"|", ">", "&&", ";", "||", "&"}


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def commands(text: str) -> list[str]:
    """Lines of code blocks (fenced, or indented by four) that begin with `dreamjax`, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    shown, fenced = [], False
    for line in joined.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            words = line.strip().removeprefix("$ ")
            if words.startswith("dreamjax "):
                shown.append(words.partition("  #")[0])
    return shown


def python_blocks(text: str) -> list[str]:
    """The fenced Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)


def notebook_code(path: Path) -> str:
    """The code cells of a notebook as one program."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def anchors(text: str) -> set[str]:
    """GitHub's anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


CODE = [(name_of(p), block) for p in PAGES for block in python_blocks(p.read_text(encoding="utf-8"))]
CODE += [(name_of(p), notebook_code(p)) for p in sorted(REPOSITORY.glob("notebooks/*.ipynb"))]
SHOWN = [(name_of(p), c) for p in DOCUMENTS for c in commands(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_resolve(path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        if linked.name in ("contributing.md", "changelog.md"):  # these include the file of the repository's root
            linked = REPOSITORY / linked.name.upper().replace(".MD", ".md")
        missing_anchor = anchor and linked.suffix == ".md" and anchor not in anchors(linked.read_text(encoding="utf-8"))
        if not linked.exists() or missing_anchor:
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=name_of)
def test_source_files_named_in_a_page_exist(path):
    named = re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|sh|yaml))`", path.read_text(encoding="utf-8"))
    roots = [REPOSITORY, REPOSITORY / "dreamjax", REPOSITORY / "configs"]
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_readme_shows_prepare_train_evaluate_and_export():
    assert {shlex.split(c)[1] for n, c in SHOWN if n == "README.md"} >= {"prepare", "train", "evaluate", "export"}


@pytest.mark.parametrize(("document", "command"), SHOWN, ids=[f"{n}-{i}" for i, (n, _) in enumerate(SHOWN)])
def test_command_is_accepted_by_its_verb(document, command, monkeypatch):
    """The options exist, their values have the right type, the config file and its keys exist."""
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
            options.load_config(args)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_page_has_no_placeholder(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"\b(?:TODO|TBD|FIXME|RESULTS\S*|recipe to follow)\b|being written", text) == []


@pytest.mark.parametrize(("document", "code"), CODE, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CODE)])
def test_names_in_python_code_exist(document, code):
    """What is imported from dreamjax exists, and so does every attribute of an imported module."""
    tree = ast.parse(code)
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {a.asname or a.name: importlib.import_module(a.name) for a in node.names if a.name == "dreamjax"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamjax"):
            for alias in node.names:
                module = importlib.import_module(node.module)
                try:
                    value = getattr(module, alias.name)
                except AttributeError:
                    value = importlib.import_module(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr} does not exist"


@pytest.mark.long
def test_documentation_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install 'dreamjax[docs]'")
    words = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-d", str(tmp_path / "trees")]
    ended = subprocess.run([*words, "docs", str(tmp_path / "html")], cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-5000:]
    assert (tmp_path / "html" / "index.html").exists()
