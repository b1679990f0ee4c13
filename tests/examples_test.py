"""The examples that need nothing but the package run as they stand."""

import os
import pathlib
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(script, *arguments, folder):
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_quickstart_transfers(tmp_path):
    lines = run("quickstart.py", "--seeds", 2, folder=tmp_path).splitlines()
    (mean,) = [line.split() for line in lines if line.startswith("mean")]
    fine_tuned, scratch, difference = map(float, mean[1:])
    assert difference >= 0.10
    assert abs(fine_tuned - scratch - difference) < 0.002
    assert len([line for line in lines if line[:1].isdigit()]) == 3


def test_vgg16_tells_how_to_call_it(tmp_path):
    assert "--data photos" in run("vgg16_top_layers.py", folder=tmp_path)
