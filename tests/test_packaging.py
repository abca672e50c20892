"""What is handed out holds what it needs to run, and to be tested again."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from linkboy import _compat

ROOT = Path(__file__).resolve().parents[1]
BUILT = pytest.mark.slow  # built in an environment of their own, from the package index


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    command = ["make", "build", f"PYTHON={sys.executable}", f"VENV={folder / 'venv'}", f"DIST={folder / 'dist'}"]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder / "dist"


def wheel_of(built, *, core):
    (found,) = (wheel for wheel in built.glob("*.whl") if wheel.name.endswith("-py3-none-any.whl") is not core)
    return found


@BUILT
@pytest.mark.parametrize("core", [True, False], ids=["with the core", "without"])
def test_a_wheel_has_every_file_of_the_package_and_nothing_else(built, core):
    with zipfile.ZipFile(wheel_of(built, core=core)) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    files = {path.relative_to(source).as_posix() for path in (source / "linkboy").rglob("*") if path.is_file()}
    made = {name for name in inside if name.startswith("linkboy/_core.") and not name.endswith(".pyi")}
    kept = {
        n
        for n in files
        if "__pycache__" not in n and not n.startswith("linkboy/_core/") and not n.endswith((".so", ".pyd"))
    }
    assert inside - made == kept
    assert len(made) == core  # and not the one that an editable install had put there
    assert "linkboy/py.typed" in inside
    assert "linkboy/classify/templates/report.html" in inside


@BUILT
def test_without_a_compiler_the_wheel_is_built_without_the_core(tmp_path):
    venv.create(tmp_path / "builder", with_pip=True)
    environment = {name: value for name, value in os.environ.items() if name != "LINKBOY_CORE"} | {"CXX": "/bin/false"}
    command = [tmp_path / "builder" / "bin" / "python", "-m", "pip", "wheel", "-v", "--no-deps", "-w", tmp_path, ROOT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (
        "linkboy was built without its compiled core: no C++ compiler was found, or it failed"
        in done.stdout + done.stderr
    )
    name = next(tmp_path.glob("*.whl"))
    assert name.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(name) as wheel:
        assert not [one for one in wheel.namelist() if one.endswith((".so", ".pyd"))]
    done = subprocess.run(
        command, env={**environment, "LINKBOY_CORE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "LINKBOY_CORE=1 asks for the compiled core, which was not built" in done.stdout + done.stderr


@BUILT
def test_the_source_distribution_has_what_the_make_targets_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "Makefile", "constraints.txt", "constraints-oldest.txt", "pyproject.toml", "zensical.toml", "CONTRIBUTING.md",
        "SECURITY.md", "LICENSE",
    ):  # fmt: skip
        assert needed in inside
    for folder in ("src", "tests", "docs", "examples", "benchmarks"):
        kept = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.[pm][yd]")}
        assert kept <= inside, folder


@BUILT
@pytest.mark.parametrize("core", [True, False], ids=["with the core", "without"])
def test_a_wheel_alone_runs_the_command(built, core, tmp_path):
    """In a folder of its own, beside the packages of this environment; none of the checkout's files are in reach."""
    wheel = wheel_of(built, core=core)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheel], check=True
    )
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"{w} {i},{w}\n" for w in ("up", "down") for i in range(40))
    )
    code = """
import linkboy as lb, linkboy.cli, linkboy._compiled, sys
print(linkboy.__file__)
vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "up", "##s"])}
print(linkboy._compiled.core() is not None, lb.BertTokenizer(vocabulary).encode("ups down"))
sys.exit(linkboy.cli.run(['train', 'rows.csv', '--out', 'model']))
"""
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert done.stdout.splitlines()[1] == f"{core} [2, 4, 5, 1, 3]"
    assert (tmp_path / "model" / "report.html").exists()


def requirements_of(lines):
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def test_the_oldest_environment_is_exactly_the_lower_bounds():
    """So that `make test-oldest` runs what pip may install at the oldest, and the bounds are versions that were run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines()
    pinned = requirements_of(line for line in lines if not line.startswith("#"))
    declared = requirements_of(
        line for lines in (project["dependencies"], *project["optional-dependencies"].values()) for line in lines
    )
    for name, requirement in declared.items():
        (bound,) = requirement.specifier
        (pin,) = pinned[name].specifier
        assert (bound.operator, pin.operator) == (">=", "==")
        assert Version(pin.version) == Version(bound.version), name
    assert str(declared["torch"].specifier) == f">={_compat.OLDEST_TORCH}"
    assert str(pinned["transformers"].specifier) == f"=={_compat.OLDEST_TRANSFORMERS}"


def test_the_classifiers_name_the_pythons_that_it_runs_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [line.rpartition(" :: ")[2] for line in project["classifiers"] if line.startswith("Programming Language")]
    assert named == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("goal", ["demo", "test"])
def test_make_names_a_python_that_is_too_old(tmp_path, goal):
    old = tmp_path / "python3.9"
    script = "import sys; sys.version_info, sys.version = (3, 9, 1), '3.9.1 (main)'; exec(sys.argv[2])"
    old.write_text(f"#!{sys.executable}\n{script}\n")
    old.chmod(0o755)
    command = ["make", goal, f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"linkboy needs Python 3.11 or newer, {old} is 3.9.1; run: make {goal} PYTHON=python3.13"
    )
    assert not (tmp_path / "venv").exists()
