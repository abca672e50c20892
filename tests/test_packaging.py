"""What is handed out holds what it needs to run, and to be tested again."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow  # both are built in an environment of their own, from the package index


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    venv.create(folder / "builder", with_pip=True)
    python = folder / "builder" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "build"], check=True)
    subprocess.run([python, "-m", "build", "-q", "-o", folder, ROOT], check=True)
    return folder


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    files = {path.relative_to(source).as_posix() for path in (source / "linkboy").rglob("*") if path.is_file()}
    assert inside == {name for name in files if "__pycache__" not in name}
    assert "linkboy/py.typed" in inside
    assert "linkboy/classify/templates/report.html" in inside


def test_the_source_distribution_has_what_the_make_targets_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("Makefile", "constraints.txt", "pyproject.toml", "zensical.toml", "CONTRIBUTING.md", "LICENSE"):
        assert needed in inside
    for folder in ("src", "tests", "docs", "examples", "benchmarks"):
        kept = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.[pm][yd]")}
        assert kept <= inside, folder


def test_the_wheel_alone_runs_the_command(built, tmp_path):
    """In a folder of its own, beside the packages of this environment; none of the checkout's files are in reach."""
    wheel = next(built.glob("*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheel], check=True
    )
    (tmp_path / "rows.csv").write_text(
        "text,label\n" + "".join(f"{w} {i},{w}\n" for w in ("up", "down") for i in range(40))
    )
    code = "import linkboy.cli, sys; print(linkboy.__file__); sys.exit(linkboy.cli.run(['train', 'rows.csv', '--out', 'model']))"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert (tmp_path / "model" / "report.html").exists()
