"""One vocabulary in all rooms: names of report fields and files, documented attributes and returns, choices, plain English."""

import ast
import dataclasses
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import linkboy
from linkboy._report import Report

SOURCE = Path(linkboy.__file__).parent
PAGES = Path(__file__).resolve().parents[1]
ROOMS = sorted(linkboy._NAMES)
TREES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


def room(name: str) -> ModuleType:
    return importlib.import_module(f"linkboy.{name}")


def public(name: str) -> Iterator[tuple[str, object]]:
    yield from ((each, getattr(room(name), each)) for each in room(name).__all__)


def public_records(name: str) -> Iterator[tuple[str, type]]:
    yield from (
        (each, thing) for each, thing in public(name) if isinstance(thing, type) and dataclasses.is_dataclass(thing)
    )


def section(doc: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:[ ]{{4}}.*\n|\n)*)", doc + "\n", re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_names_what_it_offers_and_everything_else_is_internal(name):
    module = room(name)
    assert sorted(module.__all__) == list(module.__all__)
    homes = {getattr(thing, "__module__", "").rpartition(".")[2] for _, thing in public(name)}
    files = {path.stem for path in (SOURCE / name).rglob("*.py")} - {"__init__"}
    assert {stem for stem in files if not stem.startswith("_")} <= homes, "internal files have an underscore"


# What the names of fields say: a verdict is `ok`, remarks are `notes`, a number of things ends in `_count`, bytes in `_nbytes`.
FORMER = re.compile(
    r"^(valid|identical|leaking|leaks|safe|passed|note|warnings|error|errors|freed_bytes|n_\w+|num_\w+|\w+_bytes|\w+_mb|\w+_secs?)$"
)


def wrong_fields(record: type) -> set[str]:
    hints = get_type_hints(record)
    wrong = {field.name for field in dataclasses.fields(record) if FORMER.match(field.name)}
    for word, kind in (("ok", bool), ("notes", tuple[str, ...])):
        if word in hints and hints[word] != kind:
            wrong.add(word)
    if "rows" in hints and get_origin(hints["rows"]) is not tuple:
        wrong.add("rows")
    return wrong | {
        each for each in hints if each.endswith(("_count", "_nbytes")) and hints[each] not in (int, int | None)
    }


@pytest.mark.parametrize("name", ROOMS)
def test_fields_of_reports_have_the_names_that_all_rooms_use(name):
    assert not {each: wrong for each, record in public_records(name) if (wrong := wrong_fields(record))}


def test_a_wrong_field_is_seen():
    @dataclasses.dataclass
    class Planted:
        leaking: bool
        ok: str
        notes: list[str]
        rows: int
        saved_bytes: int
        layer_count: str

    assert wrong_fields(Planted) == {"leaking", "ok", "notes", "rows", "saved_bytes", "layer_count"}


@pytest.mark.parametrize("name", ROOMS)
def test_every_field_of_a_report_is_documented(name):
    missing = {}
    for each, record in public_records(name):
        if issubclass(record, Report) or each.endswith("Row"):
            shown = section(inspect.getdoc(record) or "", "Attributes")
            fields = [field.name for field in dataclasses.fields(record) if not field.name.startswith("_")]
            missing[each] = [field for field in fields if not re.search(rf"^    {field}\b.*:", shown, re.MULTILINE)]
    assert not {each: fields for each, fields in missing.items() if fields}


def functions_of(thing: object) -> Iterator[tuple[str, object]]:
    if inspect.isfunction(thing):
        yield thing.__name__, thing
    elif isinstance(thing, type):
        for key, value in vars(thing).items():
            function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            if inspect.isfunction(function) and not key.startswith("_"):
                yield f"{thing.__name__}.{key}", function


def returns_something(function: object) -> bool:
    annotation = inspect.signature(function).return_annotation  # type: ignore[arg-type]
    return annotation not in (None, "None", inspect.Signature.empty, "Self", "NoReturn")


@pytest.mark.parametrize("name", ROOMS)
def test_what_a_public_function_returns_is_documented(name):
    missing = []
    for _, thing in public(name):
        for each, function in functions_of(thing):
            doc = inspect.getdoc(function) or ""
            said = section(doc, "Returns") or section(doc, "Yields") or re.match(r"(Return|Yield|Make|Write)\b", doc)
            overrides = isinstance(thing, type) and any(hasattr(base, function.__name__) for base in thing.__mro__[1:])
            if returns_something(function) and not said and not overrides:
                missing.append(each)
    assert not missing


FREE_TEXT = {"encoding", "title", "name", "separator", "suffix", "prefix", "device"}  # any text will do


@pytest.mark.parametrize("name", ROOMS)
def test_choices_are_literals(name):
    wrong = []
    for _, thing in public(name):
        functions = [*functions_of(thing)]
        if isinstance(thing, type) and "__init__" in vars(thing):
            functions.append((thing.__name__, thing.__init__))
        for each, function in functions:
            for parameter in inspect.signature(function).parameters.values():
                choice = isinstance(parameter.default, str) and parameter.default.isidentifier()
                kinds = [get_origin(kind) for kind in (parameter.annotation, *get_args(parameter.annotation))]
                if choice and Literal not in kinds and parameter.name not in FREE_TEXT:
                    wrong.append(f"{each}({parameter.name}={parameter.default!r})")
    assert not wrong


OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def options_named(tree: ast.AST) -> set[str]:
    """Options of the command line in texts that are not docstrings."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
    return {option for text in texts if isinstance(text, str) for option in OPTION.findall(text)}


def test_rooms_do_not_speak_the_language_of_the_command():
    named = {path: options_named(tree) for path, tree in TREES.items() if "cli" not in path.parts}
    assert not {str(path.relative_to(SOURCE)): options for path, options in named.items() if options}
    assert options_named(ast.parse("raise ValueError(f'{name} is missing; pass --on-bad-row skip')")) == {
        "--on-bad-row"
    }


# A name that says more than one thing: two rooms may each have the class, for the reason given.
TWICE_WITH_A_REASON = {"SkippedRow": "a row of a foreign file that was left out: of labelled texts, and of vectors"}


def test_no_class_has_its_name_twice():
    names = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert {name for name, count in names.items() if count > 1} == set(TWICE_WITH_A_REASON)


# House words for which plain English has a common one.
UNCOMMON = re.compile(
    r"\b(mend(s|ed|ing)?|anew|foretell(s|ing)?|foretold|kin|litter(s|ed)?|to the (same )?bits?|proved|unasked"
    r"|(is|are|was|were) no (number|module|tensor|string|integer|weight|part|multiple|norm|layer|floating|long tail)s?"
    r"|Say whether|Take note of|are due|is due|are of then|the surest|taken for another|has not (the|a|one)"
    r"|as (it|they) (was|were)(?! [a-z])|hung on|none of torch's|is copied around|reads? badly)\b"
)


def uncommon(text: str) -> list[str]:
    return [found[0] for found in UNCOMMON.finditer(text)]


def test_source_and_pages_use_common_words():
    pages = [PAGES / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
        (PAGES / "docs").glob("*.md")
    )
    pages += sorted((PAGES / "examples").glob("*.py"))
    texts = {str(path): path.read_text("utf-8").partition("### Names that changed")[0] for path in [*TREES, *pages]}
    found = {path: uncommon(text) for path, text in texts.items()}
    assert not {path: words for path, words in found.items() if words}
    assert uncommon("Say whether it is no number; mended anew") == ["Say whether", "is no number", "mended", "anew"]
