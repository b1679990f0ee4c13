"""The rooms of the house, and who may ask whom."""

import ast
import pathlib
import re
import sys

import pytest

HOUSE = pathlib.Path(__file__).parent.parent / "finetune_keras"
# From the ground up: a room asks those that stand before it.
FLOORS = [
    "engine",
    "data",
    "plans",
    "models",
    "text",
    "adapters",
    "cache",
    "training",
    "results",
    "search",
    "testing",
]
MODULES = sorted(HOUSE.glob("*/*.py"))


def rooms_asked(path):
    """Yields the rooms that a module imports from, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == HOUSE.name and rest:
                yield rest.split(".")[0]


def test_every_room_has_its_floor():
    assert {path.parent.name for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_no_arrow_goes_up(room):
    allowed = ["arguments", *FLOORS[: FLOORS.index(room) + 1]]
    wrong = {
        f"{path.name} asks {asked}"
        for path in MODULES
        if path.parent.name == room
        for asked in rooms_asked(path)
        if asked not in allowed
    }
    assert wrong == set()


# Names of ours, of tf.data and of KerasTuner.
OWN = {"_batches", "_functions", "_inputs", "_layout", "_retrieve"}
OWN.add("_activate_all_conditions")
# Of Python's own.
OWN |= {"_clear", "_exit", "_run_exitfuncs"}
# Of urllib, of TensorFlow's functions and of its datasets.
OTHERS = {"_function_spec", "_opener", "_reshuffle_each_iteration"}


def private_parts_of_others(path):
    """Yields what a module takes from inside Keras or another library."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.startswith("keras.src"):
                yield f"{path.name}: {node.module}"
        if isinstance(node, ast.Call):
            yield from asked_by_name(node, path)
        if not isinstance(node, ast.Attribute) or node.attr in OWN:
            continue
        owner = ast.unparse(node.value)
        if re.match(r"_[a-z]", node.attr) and owner not in ("self", "cls"):
            yield f"{path.name}: {owner}.{node.attr}"


def asked_by_name(call, path):
    """Yields what `getattr` and its like ask for with a private name."""
    names = [x.value for x in call.args[1:2] if isinstance(x, ast.Constant)]
    if ast.unparse(call.func) in ("getattr", "hasattr", "setattr"):
        for name in {*map(str, names)} - OTHERS:
            if re.match(r"_[a-z]", name):
                yield f"{path.name}: {ast.unparse(call)}"


@pytest.mark.parametrize("room", FLOORS[1:])
def test_what_keras_keeps_to_itself_is_read_in_the_engine(room):
    modules = [path for path in MODULES if path.parent.name == room]
    found = [x for path in modules for x in private_parts_of_others(path)]
    assert found == []


def test_one_file_imports_from_inside_keras():
    asking = [path.name for path in MODULES if "keras.src" in path.read_text()]
    assert asking == ["private.py"]


def test_one_file_asks_for_the_backend():
    asking = [
        path.name for path in MODULES if "backend.backend()" in path.read_text()
    ]
    assert asking == ["backend.py"]


# What every installation has: Keras, NumPy, the type of bfloat16, a backend.
ALWAYS = {"finetune_keras", "keras", "numpy", "ml_dtypes", "jax", "torch"}
# A process of its own runs this file, without the library.
ALONE = {"image_check.py": {"PIL"}}


def others_imported(path):
    """Yields the packages that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names | ALWAYS:
                yield top


def test_what_may_be_missing_is_asked_for_in_one_file():
    found = {path.name: set(others_imported(path)) for path in MODULES}
    assert {name: tops for name, tops in found.items() if tops} == ALONE
