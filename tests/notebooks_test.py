"""The notebooks run as they stand, and have stored what they show.

In small here, and by no kernel; `make notebooks` runs them as they are.
"""

import base64
import json
import pathlib
import re

import pytest

from finetune_keras.testing.processes import FreshProcess

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALLER = {
    "digits": 120,
    "epochs": 1,
    "examples": 4,
    "messages": 24,
    "minutes": 1e-6,
    "passes": 1,
    "photos": 12,
    "rows": 60,
    "sounds": 6,
    "steps": 8,
    "trials": 2,
}
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def shown():
    """What the cells of each notebook show, or how it failed."""
    script = ROOT / "tests" / "run_notebooks.py"
    process = FreshProcess(script, json.dumps(SMALLER), *NOTEBOOKS)
    assert process.wait() == 0, process.stderr[-3000:]
    found = {}
    for line in process.lines():
        found |= json.loads(line)
    return found


def cells_of(path):
    return json.loads(path.read_text())["cells"]


def code_cells(path):
    return [cell for cell in cells_of(path) if cell["cell_type"] == "code"]


def kind_of(outputs):
    """What a cell has stored, in the words of `run_notebooks.py`."""
    kinds = {key for x in outputs for key in x.get("data", {"stream": ""})}
    names = {"text/html": "html", "image/png": "image"}
    found = [names[kind] for kind in names if kind in kinds]
    return [*found, "text" if kinds else ""][0]


@each
def test_runs_and_shows_what_is_stored(path, shown):
    assert isinstance(shown[path.name], list), shown[path.name]
    stored = [kind_of(cell["outputs"]) for cell in code_cells(path)]
    assert stored == shown[path.name]
    # The objects of the library are seen, not printed alone.
    assert stored.count("html") >= 2


@each
def test_stored_outputs_are_clean(path):
    cells = code_cells(path)
    numbers = [cell["execution_count"] for cell in cells]
    assert numbers == list(range(1, len(cells) + 1))
    outputs = [x for cell in cells for x in cell["outputs"]]
    assert {x["output_type"] for x in outputs} <= {"stream", "execute_result"}
    assert not [x for x in outputs if x.get("name") == "stderr"]
    text = json.dumps(outputs)
    assert not re.search(r"/tmp/|/home/|/root/|site-packages|tensorflow:", text)
    assert not re.search("warning", text, re.IGNORECASE)


@each
def test_files_are_small(path):
    assert path.stat().st_size < 250_000
    pattern = r'(?:base64,|"image/png": ")([\w+/=]+)'
    images = re.findall(pattern, path.read_text())
    assert all(len(base64.b64decode(image)) < 40_000 for image in images)


@each
def test_is_told_from_its_title_to_what_one_keeps(path):
    cells = cells_of(path)
    titles = [
        line
        for cell in cells
        if cell["cell_type"] == "markdown"
        for line in cell["source"]
        if line.startswith("#")
    ]
    assert titles[0].startswith("# ") and "keep" in titles[-1]
    for page in ("README.md", "docs/notebooks.md"):
        assert f"notebooks/{path.name}" in (ROOT / page).read_text(), page
