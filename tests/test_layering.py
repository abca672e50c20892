"""Imports point one way: `_checks, _report, ... <- _progress, _tensors <- rooms <- training <- classify <- cli`."""

import ast
from pathlib import Path

import linkboy

SOURCE = Path(linkboy.__file__).parent
ROOM = 2
RANKS = {
    "_checks": 0,
    "_report": 0,
    "_files": 0,
    "_untouched": 0,
    "_progress": 1,
    "_tensors": 1,
    "training": 3,
    "classify": 4,
    "cli": 5,
    "__main__": 6,
}
TRAINING_MAY_USE = {"parameters", "memory"}


def rank(unit: str) -> int:
    return RANKS.get(unit, ROOM)


def imported_units(source: str) -> set[str]:
    """Names of the files or packages directly below `linkboy` that a module imports, at any depth of nesting."""
    units: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            units |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("linkboy.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this test can read them"
            if node.module == "linkboy":
                units |= {linkboy._ROOM_OF.get(alias.name, alias.name).split(".")[0] for alias in node.names}
            elif node.module and node.module.startswith("linkboy."):
                units.add(node.module.split(".")[1])
    return units - {"__version__"}


def forbidden_imports(unit: str, source: str) -> set[str]:
    """Units that `unit` may not import but does."""
    if unit == "__init__":
        return set()  # the lazy surface names every room, under TYPE_CHECKING only
    below = {other for other in imported_units(source) - {unit} if rank(other) < rank(unit)}
    if unit == "training":
        below -= {other for other in below if rank(other) == ROOM} - TRAINING_MAY_USE
    return imported_units(source) - {unit} - below


def test_every_import_points_to_a_lower_layer():
    for path in SOURCE.rglob("*.py"):
        unit = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        assert not forbidden_imports(unit, path.read_text("utf-8")), f"{path} imports upward or sideways"


def test_a_planted_wrong_import_is_seen():
    assert forbidden_imports("_report", "from linkboy._checks import describe") == {"_checks"}
    assert forbidden_imports("losses", "from linkboy.memory import release_memory") == {"memory"}
    assert forbidden_imports("training", "from linkboy.losses import focal_loss") == {"losses"}
    assert not forbidden_imports("training", "from linkboy.memory import release_memory")
    for planted in ("from linkboy import cli", "import linkboy.cli", "def f():\n    from linkboy.cli import main"):
        assert forbidden_imports("_report", planted) == {"cli"}
        assert forbidden_imports("training", planted) == {"cli"}
