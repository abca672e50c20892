"""Imports point one way: every file and room below `linkboy` stands on a floor, and no two modules import each other."""

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import linkboy

SOURCE = Path(linkboy.__file__).parent
ROOM = 4  # rooms do not import one another
FLOORS = {
    "_version": 0, "_compat": 0, "_checks": 0, "_report": 0, "_files": 0, "_plots": 0, "_oom": 0,
    "_untouched": 0, "_encodings": 0, "_compiled": 0,
    "_random": 1, "_progress": 1, "_language": 1, "_page": 2, "_tensors": 1, "_reading": 1,
    "_walk": 2, "_optimizers": 2, "_integers": 2,
    "_calls": 3,
    "autograd": ROOM, "capsules": ROOM, "embeddings": ROOM, "init": ROOM, "losses": ROOM, "memory": ROOM,
    "parameters": ROOM, "shapes": ROOM, "editing": ROOM, "text": ROOM,
    "_watch": ROOM,  # below training, which runs some of its checks
    "training": 5,
    "doctor": 6,
    "classify": 6,
    "linkboy": 7,  # the surface, which names every room
    "cli": 8,
    "__main__": 9,
}  # fmt: skip

# The folders of the largest room stand on floors of their own, below the files beside them.
FOLDERS = {
    "recipe": 0,
    "reading": 1,
    "judging": 2, "encoding": 2,
    "models": 3, "linear": 3,
    "learning": 4, "saved": 4,
    "results": 5,
}  # fmt: skip

Graph = Mapping[str, set[str]]


def unit_of(module: str) -> str:
    """The file or room directly below `linkboy` that a module belongs to; `linkboy` for the surface."""
    return [*module.split("."), module][1 if "." in module else 0]


def folder_of(module: str) -> str | None:
    """The folder of `linkboy.classify` that a module is in, or a file that has a floor; `None` for others."""
    folder = module.removeprefix("linkboy.classify.").partition(".")[0]
    return folder if folder in FOLDERS else None


@functools.cache  # the tree is read once, though many tests plant a module in it
def imports_of(module: str, source: str, modules: frozenset[str]) -> set[str]:
    """Modules that a module imports, also in a function or for type checkers only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this test can read them"
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                found |= {longer if longer in modules else node.module or ""} & modules
    return found - {module}


def sources() -> dict[str, str]:
    """The text of every module by its name."""
    return {
        ".".join(("linkboy", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path.read_text("utf-8")
        for path in sorted(SOURCE.rglob("*.py"))
    }


def graph_of(texts: Mapping[str, str]) -> Graph:
    surface = {"linkboy": set[str]()}  # it imports rooms when their names are first used, and no room may import it
    return {module: imports_of(module, text, frozenset(texts)) for module, text in texts.items()} | surface


def upward(graph: Graph) -> Iterator[str]:
    for module, others in graph.items():
        for other in others:
            here, there = unit_of(module), unit_of(other)
            if here != there and FLOORS[there] >= FLOORS[here]:
                yield f"{module} (floor {FLOORS[here]}) imports {other} (floor {FLOORS[there]})"


def upward_in_classify(graph: Graph) -> Iterator[str]:
    for module, others in graph.items():
        for other in others:
            here, there = folder_of(module), folder_of(other)
            if here is None or here == there or not other.startswith("linkboy.classify"):
                continue
            if there is None or FOLDERS[there] >= FOLDERS[here]:
                yield f"{module} imports {other}, which is above it or beside it"


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules that reach each other, by Tarjan's algorithm."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in graph[module]:
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in number:
            visit(module)
    return found


def test_every_file_and_room_has_a_floor():
    assert {unit_of(module) for module in sources()} == set(FLOORS), "give the new file or room a floor in FLOORS"


@pytest.mark.parametrize("page", ["architecture.md", "zh/architecture.md"])
def test_the_page_on_architecture_shows_every_file_on_its_floor(page):
    text = (Path(__file__).parent.parent / "docs" / page).read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| (`_[^|]*) \|", text, re.MULTILINE)
    shown = {name: int(floor) for floor, files in rows for name in re.findall(r"`(\w+)`", files)}
    assert shown == {name: floor for name, floor in FLOORS.items() if floor < ROOM}


def test_every_import_points_to_a_lower_floor():
    assert not list(upward(graph_of(sources())))


def test_every_folder_of_the_classifier_has_a_floor():
    room = SOURCE / "classify"
    assert {path.parent.name for path in room.glob("*/__init__.py")} <= set(FOLDERS)


@pytest.mark.parametrize("page", ["architecture.md", "zh/architecture.md"])
def test_the_page_on_architecture_shows_the_folders_of_the_classifier(page):
    text = (Path(__file__).parent.parent / "docs" / page).read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| (`[^|]*) \|", text, re.MULTILINE)
    shown = {name: int(floor) for floor, files in rows for name in re.findall(r"`(\w+)`", files)}
    assert {name: floor for name, floor in shown.items() if name in FOLDERS} == FOLDERS


def test_every_import_between_folders_of_the_classifier_points_to_a_lower_floor():
    assert not list(upward_in_classify(graph_of(sources())))


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("linkboy.classify.reading.labelled", "from linkboy.classify.learning.search import search"),
        ("linkboy.classify.models._models", "from linkboy.classify.linear._solver import one_thread"),
        ("linkboy.classify.learning._learner", "from linkboy.classify.job import train_classifier"),
    ],
)
def test_a_planted_import_between_folders_is_seen(module, planted):
    assert list(upward_in_classify(graph_of(sources() | {module: planted})))


def test_no_modules_import_each_other():
    found = circles(graph_of(sources()))
    assert not found, f"these modules import each other: {found}"


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("linkboy._report", "from linkboy._checks import describe"),  # sideways
        ("linkboy.losses.focal", "from linkboy.memory import release_memory"),
        ("linkboy.training.loop", "import linkboy.cli"),
        ("linkboy.training.loop", "def f():\n    from linkboy.cli import main"),
        ("linkboy.memory.retry", "if TYPE_CHECKING:\n    from linkboy.training import fit"),
        ("linkboy.shapes._calls", "import linkboy"),
        ("linkboy._checks", "from linkboy._report import plural"),
        ("linkboy.classify.job", "from linkboy import focal_loss"),
    ],
)
def test_a_planted_upward_import_is_seen(module, planted):
    texts = sources()
    assert list(upward(graph_of(texts | {module: planted})))


def test_a_planted_circle_is_seen():
    texts = sources() | {"linkboy.memory.one": "from linkboy.memory.two import x", "linkboy.memory.three": ""}
    texts["linkboy.memory.two"] = "from linkboy.memory import three\nfrom linkboy.memory.one import y"
    assert ["linkboy.memory.one", "linkboy.memory.two"] in circles(graph_of(texts))
    texts["linkboy.memory.two"] = "def f():\n    import linkboy.memory.one"
    assert ["linkboy.memory.one", "linkboy.memory.two"] in circles(graph_of(texts))
    texts["linkboy.memory.two"] = ""
    assert not any("linkboy.memory.one" in group for group in circles(graph_of(texts)))
