"""What `make lint` checks of the structure: systems stay behind the registry, no import circle, plain names, few `Any`.

python .ci/structure.py            # prints every problem; exit 1 where there is one
python .ci/structure.py --counts   # lines, Any in signatures and names of the dialect, by room
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dreamjax"
SYSTEMS = ("masked_pretraining", "text_to_image", "dreamdiffusion", "autoencoder", "classifier", "clip")
UNMISTAKABLE = SYSTEMS[:3]  # the other names are also words of the field
OTHER_MEANINGS = {  # (file, text) → what it means there
    ("objectives/contrastive.py", "text_to_image"): "a direction of retrieval",
    ("cli/prepare_verb.py", "dreamdiffusion"): "how its published code reads EEG-ImageNet's trials",
    ("signals/preparation/convert_trials.py", "dreamdiffusion"): "likewise",
}
DIALECT = {"found", "told", "said", "own", "beside", "dealt", "anew", "nobody", "standing", "whoever"}
QUESTIONS = {"exists", "is_dir", "is_file", "isdir", "isfile"}
MAY_ASK = (  # recordings are inputs, of which each is read or reported; the others come before `storage`
    *("dreamjax.storage.presence", "dreamjax.storage.paths", "dreamjax.storage.atomic", "dreamjax.config"),
    *("dreamjax.signals.recordings", "dreamjax.signals.preparation", "dreamjax.systems.pytorch"),
)
MOST_ANY = 250  # in signatures


def modules() -> dict[str, ast.Module]:
    """Module name → its syntax tree."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def imports(name: str, tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The modules of the package that a module imports, inside functions too; not those for type checkers alone."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                target = module if module in known else node.module
                if target in known and target != name:
                    yield target


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for following in graph[node]:
            if following not in index:
                visit(following)
                low[node] = min(low[node], low[following])
            elif following in stack:
                low[node] = min(low[node], index[following])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def names_of_systems(name: str, tree: ast.Module) -> Iterator[str]:
    """Where a module outside `systems` imports a system or writes its name."""
    file = f"{name.removeprefix('dreamjax.').replace('.', '/')}.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            targets = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(target in {f"dreamjax.systems.{system}" for system in SYSTEMS} for target in targets):
                yield f"{file}:{node.lineno}: imports a system; ask for a capability (dreamjax/systems/base.py)"
        elif isinstance(node, ast.Constant) and node.value in UNMISTAKABLE and (file, node.value) not in OTHER_MEANINGS:
            yield f"{file}:{node.lineno}: names the system {node.value!r}; ask for a capability"


def any_in_signatures(tree: ast.Module) -> int:
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            a = node.args
            arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            annotations = [one.annotation for one in arguments if one is not None] + [node.returns]
            names = (inner for one in annotations if one is not None for inner in ast.walk(one))
            count += sum(isinstance(inner, ast.Name) and inner.id == "Any" for inner in names)
    return count


def dialect(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        name = {
            ast.Name: lambda n: n.id if isinstance(n.ctx, ast.Store) else "",
            ast.Attribute: lambda n: n.attr if isinstance(n.ctx, ast.Store) else "",
            ast.arg: lambda n: n.arg,
            ast.FunctionDef: lambda n: n.name,
            ast.ClassDef: lambda n: n.name,
        }.get(type(node), lambda n: "")(node)
        if name.strip("_") in DIALECT:
            yield node.lineno, name


def unsafe_questions(name: str, tree: ast.Module) -> Iterator[str]:
    """Where a module asks the operating system for an absence: an unreadable path would count as a missing one."""
    if name.startswith(MAY_ASK):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in QUESTIONS:
            owner = ast.unparse(node.func.value)
            if owner == "os.path" or (owner != "presence" and not node.args):
                yield f"{name}:{node.lineno}: {node.func.attr} is False for what cannot be read; ask storage.presence"


def main() -> int:
    trees = modules()
    if "--counts" in sys.argv:
        return counts(trees)
    problems = []
    graph = {name: set(imports(name, tree, set(trees))) for name, tree in trees.items()}
    problems += [f"import circle: {', '.join(group)}" for group in circles(graph)]
    for name, tree in trees.items():
        if not name.startswith("dreamjax.systems"):
            problems += names_of_systems(name, tree)
        problems += unsafe_questions(name, tree)
        problems += [f"{name}:{line}: name the value, not {word!r} (CONTRIBUTING.md)" for line, word in dialect(tree)]
    total = sum(map(any_in_signatures, trees.values()))
    if total > MOST_ANY:
        problems.append(f"Any stands {total} times in signatures, of at most {MOST_ANY}: give real types")
    print("\n".join(problems) or f"structure: {len(trees)} modules, no problem")
    return int(bool(problems))


def counts(trees: dict[str, ast.Module]) -> int:
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for name, tree in trees.items():
        path = ROOT / f"{name.replace('.', '/')}.py"
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        row = (len(path.read_text(encoding="utf-8").splitlines()), any_in_signatures(tree), len(list(dialect(tree))))
        for room in ("all", name.split(".")[1] if "." in name else name):
            rooms[room] = [a + b for a, b in zip(rooms[room], row, strict=True)]
    print(f"{'room':20} {'lines':>6} {'Any':>5} {'names':>6}")
    for room, row in sorted(rooms.items(), key=lambda item: -item[1][0]):
        print(f"{room:20} {row[0]:6} {row[1]:5} {row[2]:6}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
