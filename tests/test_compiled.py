"""The compiled core is loaded where it is first used, can be switched off, and may be absent."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from linkboy import _compiled
from linkboy.cli import run


@pytest.fixture
def forgotten():
    _compiled._load.cache_clear()
    yield
    _compiled._load.cache_clear()


def test_a_bare_import_does_not_load_the_core():
    code = "import sys, linkboy; print('linkboy._core' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_switch_turns_the_core_off_and_the_version_says_so(monkeypatch, capsys):
    monkeypatch.setenv("LINKBOY_CORE", "0")
    assert _compiled.core() is None
    assert run(["--version"]) == 0
    assert "(without its compiled core, as LINKBOY_CORE=0 says: slower, same results)" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("found", [ImportError("no such file"), object()], ids=["absent", "a folder of sources"])
def test_without_an_extension_there_is_no_core(monkeypatch, forgotten, found):
    def load(name):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.delenv("LINKBOY_CORE", raising=False)
    monkeypatch.setattr(_compiled.importlib, "import_module", load)
    assert _compiled.core() is None
    assert _compiled.describe_core().startswith("without its compiled core, as none was built")


@pytest.mark.parametrize(
    "built", [{}, {"INTERFACE": _compiled._INTERFACE + 1}], ids=["before there was a number", "later"]
)
def test_an_extension_of_other_sources_is_not_used_and_the_version_says_so(monkeypatch, forgotten, built):
    monkeypatch.delenv("LINKBOY_CORE", raising=False)
    monkeypatch.setattr(
        _compiled.importlib, "import_module", lambda name: types.SimpleNamespace(Encoder=object, **built)
    )
    assert _compiled.core() is None
    assert _compiled.describe_core() == (
        "without its compiled core, as the one there is of other sources: slower, same results; `make core` builds it"
    )


def test_python_and_the_sources_of_the_core_name_the_same_interface():
    source = Path(_compiled.__file__).with_name("_core") / "module.cpp"
    if not source.exists():
        pytest.skip("the sources are not installed")
    assert f"constexpr long INTERFACE = {_compiled._INTERFACE};" in source.read_text("utf-8")


def test_with_an_extension_the_version_says_so(monkeypatch, forgotten):
    monkeypatch.delenv("LINKBOY_CORE", raising=False)
    if _compiled.core() is not None:
        assert _compiled.describe_core() == "with its compiled core"
