"""Runs the code cells of notebooks, and prints what each of them shows.

    python run_notebooks.py SETTINGS NOTEBOOK...

A notebook runs in a folder of its own, in small: names that its first code
cell sets have the values of SETTINGS, a JSON object, from there on.
"""

import ast
import contextlib
import gc
import io
import json
import os
import pathlib
import sys
import tempfile
import traceback


def code_cells(path):
    cells = json.loads(pathlib.Path(path).read_text())["cells"]
    return [
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
    ]


def run_all(cells, settings):
    """Returns what each of the cells shows."""
    namespace, shown = {"__name__": "__main__"}, []
    for number, source in enumerate(cells, start=1):
        shown.append(run(source, f"code cell {number}", namespace))
        if number == 1:
            found = namespace.keys() & settings
            namespace.update({name: settings[name] for name in found})
    return shown


def run(source, name, namespace):
    """Runs a cell as a kernel would; returns `"html"`, `"text"` or `""`."""
    tree, value = ast.parse(source), None
    is_value = isinstance(tree.body[-1], ast.Expr) and source[-1] != ";"
    last = tree.body.pop() if is_value else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, name, "exec"), namespace)
        if last:
            code = compile(ast.Expression(last.value), name, "eval")
            value = eval(code, namespace)
    if hasattr(value, "_repr_html_") and value._repr_html_():
        return "html"
    if hasattr(value, "_repr_png_") and value._repr_png_():
        return "image"
    return "text" if value is not None or printed.getvalue() else ""


def main(settings, *paths):
    import tensorflow as tf

    # Few steps need no traces.
    tf.config.run_functions_eagerly(True)
    gc.disable()
    for path in map(pathlib.Path, paths):
        try:
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                told = run_all(code_cells(path), json.loads(settings))
        except Exception:
            told = traceback.format_exc()
        print(json.dumps({path.name: told}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
