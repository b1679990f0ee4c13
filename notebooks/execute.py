"""Runs notebooks from top to bottom, and stores what they show.

    make notebooks
    python notebooks/execute.py notebooks/photos.ipynb

Files that a notebook writes are gone afterwards. What TensorFlow logs is left
out of what is stored; any other warning is stored, and fails the tests.
"""

import base64
import io
import os
import pathlib
import re
import sys
import tempfile
import time

import nbclient
import nbformat
from PIL import Image

LOGGED = re.compile(
    r"^(WARNING: All log|(WARNING|INFO):tensorflow:|INFO: |[IWE]\d{4} ).*\n?",
    re.MULTILINE,
)
SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # tqdm asks for widgets, which no cell needs; Keras, before it writes ONNX,
    # for a name that NumPy had.
    "PYTHONWARNINGS": "ignore:IProgress,ignore:In the future `np.object`",
}


def execute(path):
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook,
            timeout=300,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [x for x in cell.outputs if not is_log(x)]
            for output in cell.outputs:
                make_smaller(output.get("data", {}))
    # Which Python it was changes with each machine.
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)


def is_log(output):
    """Takes the log out of an output; whether nothing is left."""
    if output.output_type != "stream":
        return False
    output.text = LOGGED.sub("", output.text)
    return not output.text.strip()


def make_smaller(data):
    """Figures take 64 colours, which is a third of their bytes."""
    if "image/png" in data:
        stream = io.BytesIO(base64.b64decode(data["image/png"]))
        figure = Image.open(stream).convert("RGB").quantize(64)
        figure.save(stream := io.BytesIO(), "png", optimize=True)
        data["image/png"] = base64.b64encode(stream.getvalue()).decode()


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    chosen = sys.argv[1:] or pathlib.Path(__file__).parent.glob("*.ipynb")
    for path in sorted(chosen):
        start = time.time()
        execute(path)
        print(f"{path}: {time.time() - start:.0f} s")
