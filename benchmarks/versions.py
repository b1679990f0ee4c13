"""The tests of the core on several versions of everything, as a table.

Each row has an environment of its own, which `venv` and pip make in a
temporary folder: some minutes and up to 2 GB for each.

    python benchmarks/versions.py
    python benchmarks/versions.py --versions oldest --backends tensorflow jax
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).parent.parent
TESTS = ["pytest", "pytest-xdist", "hypothesis"]
# By name: the interpreters, and what pip installs.
VERSIONS = {
    "oldest": (["python3.10", "python3.11"], ["-r", "tests/oldest.txt"]),
    "middle": (
        ["python3.12", "python3.11"],
        "keras==3.11.3 tensorflow-cpu==2.19.1 numpy==2.0.2 scipy==1.14.1 "
        "scikit-learn==1.5.2 pandas==2.2.3 pillow==11.0.0 pyyaml "
        "matplotlib==3.9.4 safetensors==0.5.3".split()
        + TESTS,
    ),
    "newest": (
        ["python3.13", "python3.12", "python3.11"],
        "keras tensorflow-cpu numpy scipy scikit-learn pandas pillow pyyaml "
        "matplotlib safetensors".split()
        + TESTS,
    ),
}
# By version, what a backend needs beside TensorFlow.
BACKENDS = {
    "tensorflow": {name: [] for name in VERSIONS},
    "jax": {
        "oldest": ["jax==0.4.36"],
        "middle": ["jax==0.6.2"],
        "newest": ["jax"],
    },
    "torch": {
        "oldest": ["torch==2.5.1"],
        "middle": ["torch==2.7.1"],
        "newest": ["torch"],
    },
}
VERSIONS_OF = """
import importlib.metadata as m, platform, sys
names = "keras", sys.argv[1], "numpy", "scikit-learn"
print(platform.python_version(), *map(m.version, names))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", nargs="+", default=list(VERSIONS))
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    arguments = parser.parse_args()
    columns = "versions backend Python Keras with NumPy scikit-learn"
    columns = [*columns.split(), "passed", "failed", "skipped"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for version in arguments.versions:
        with tempfile.TemporaryDirectory() as folder:
            python = make_environment(version, arguments.backends, folder)
            for backend in arguments.backends:
                row = [version, backend, *run(python, backend, folder)]
                print("| " + " | ".join(map(str, row)) + " |", flush=True)


def make_environment(version, backends, folder):
    """Installs a row of `VERSIONS`; returns its interpreter."""
    interpreters, packages = VERSIONS[version]
    for backend in backends:
        packages = packages + BACKENDS[backend][version]
    found = [*map(works, interpreters), sys.executable]
    base = next(path for path in found if path)
    subprocess.run([base, "-m", "venv", f"{folder}/venv"], check=True)
    python = f"{folder}/venv/bin/python"
    install = [python, "-m", "pip", "install", "-q", "--no-compile", *packages]
    subprocess.run(install, check=True, cwd=ROOT)
    return python


def works(name):
    """The path of an interpreter, or `None` where it does not start."""
    path = shutil.which(name)
    if path is None:
        return None
    tried = subprocess.run([path, "-c", ""], capture_output=True)
    return path if tried.returncode == 0 else None


def run(python, backend, folder):
    """The versions in an environment, and how many tests did what."""
    package = {"tensorflow": "tensorflow-cpu"}.get(backend, backend)
    told = [python, "-c", VERSIONS_OF, package]
    told = subprocess.run(told, capture_output=True, text=True, check=True)
    report = f"{folder}/{backend}.xml"
    command = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
    if backend != "tensorflow":
        command += ["-m", "backends"]
    command.append("@tests/oldest_part.txt")
    settings = {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    with open(f"{folder}/{backend}.log", "w") as log:
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, **settings}, stdout=log
        )
    return [*told.stdout.split(), *counts(report)]


def counts(report):
    """Tests passed, failed and skipped, of a JUnit file."""
    suite = next(ElementTree.parse(report).iter("testsuite"))
    number = {name: int(suite.get(name)) for name in NAMES}
    failed = number["failures"] + number["errors"]
    passed = number["tests"] - failed - number["skipped"]
    return passed, failed, number["skipped"]


NAMES = {"tests", "failures", "errors", "skipped"}


if __name__ == "__main__":
    main()
