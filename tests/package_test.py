"""What is installed, and what it is built from."""

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import finetune_keras as ft
from finetune_keras.testing.processes import FreshProcess

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

ROOT = pathlib.Path(__file__).parent.parent
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""
LEFT = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder of a source distribution and a wheel, built from a copy."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "copy", ignore=LEFT)
    command = [sys.executable, "-c", BUILD, str(folder)]
    subprocess.run(
        command, cwd=folder / "copy", check=True, capture_output=True
    )
    shutil.rmtree(folder / "copy")
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_the_library_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (facts,) = (name for name in names if name.endswith("/METADATA"))
        facts = email.message_from_bytes(archive.read(facts))
    info = f"finetune_keras-{ft.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"finetune_keras", info}
    code = {name for name in names if name.endswith(".py")}
    paths = (ROOT / "finetune_keras").rglob("*.py")
    assert code == {path.relative_to(ROOT).as_posix() for path in paths}
    assert facts["Version"] == ft.__version__
    assert facts["License-Expression"] == "Apache-2.0"
    assert wheel.stat().st_size < 750_000


def test_the_source_comes_with_its_tests(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [path for path in ROOT.glob("tests/**/*_test.py")]
    assert {path.relative_to(ROOT).as_posix() for path in wanted} <= names
    assert {"CHANGELOG.md", "docs/index.md", "tests/conftest.py"} <= names
    assert {"examples/quickstart.py", "requirements/jax.txt"} <= names
    assert "notebooks/photos.ipynb" in names


def test_both_can_be_published(built):
    check = pytest.importorskip("twine.commands.check").check
    paths = [str(path) for path in built.iterdir()]
    assert len(paths) == 2
    assert not check(paths, strict=True)


def test_the_wheel_installs(wheel, tmp_path):
    place = tmp_path / "place"
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options]
        + ["--target", str(place), str(wheel)],
        check=True,
    )
    code = "import finetune_keras as ft; print(ft.__version__, ft.__file__)"
    process = FreshProcess(
        "-c", code, env={**os.environ, "PYTHONPATH": str(place)}, cwd=tmp_path
    )
    assert process.wait() == 0, process.stderr[-3000:]
    version, path = process.stdout.split()
    assert version == ft.__version__
    assert pathlib.Path(path).is_relative_to(place)


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_light_requirements_are_those_of_the_package(backend):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {
        re.match(r"[\w-]+", line)[0]: line
        for line in [*extras["dev"], *project["dependencies"]]
    }
    lines = (ROOT / f"requirements/{backend}.txt").read_text().splitlines()
    wanted = {line for line in lines if not line.startswith("#")} - {"scipy"}
    names = {"keras", "numpy", backend}
    assert wanted == {known[name].replace("==", ">=") for name in names}
