"""The documentation names every public name, and every page can be reached."""

import tomllib
from pathlib import Path

import pytest

import linkboy

DOCS = Path(__file__).resolve().parents[1] / "docs"
ROOMS = sorted(set(linkboy._ROOM_OF.values()))


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_of_a_room_has_each_of_its_public_names(room):
    names = sorted((name for name, home in linkboy._ROOM_OF.items() if home == room), key=str.lower)
    lines = (DOCS / "api" / f"{room}.md").read_text("utf-8").splitlines()
    assert [line.removeprefix("::: linkboy.") for line in lines if line.startswith(":::")] == names


def paths_of(nav):
    for entry in nav:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else paths_of(target)


def test_the_navigation_has_every_page_and_no_other():
    nav = tomllib.loads((DOCS.parent / "zensical.toml").read_text("utf-8"))["project"]["nav"]
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert sorted(paths_of(nav)) == sorted(pages)
