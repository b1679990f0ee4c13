"""No config of a class of ours reads a file, connects or runs a program.

Each class that the package registers is made from its own config, in Keras's
safe mode, with one value after another replaced by what a stranger would put
there. An audit hook of Python hears of all that is opened, connected and run.
"""

import contextlib
import copy
import importlib
import inspect
import json
import os
import pkgutil
import sys

import keras
import pytest
from keras.src.saving import object_registration

import finetune_keras as ft
from finetune_keras.models.model import FineTuneModel
from finetune_keras.models.text_encoder import TextEncoder

if keras.backend.backend() != "tensorflow":
    pytest.skip("one backend shows it", allow_module_level=True)

MARK = "bait-5e1a"
FILES = ("open", "os.", "shutil.", "glob.", "ctypes.", "import")
NEVER = (
    "socket.",
    "subprocess.",
    "urllib.",
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.startfile",
    "pickle.find_class",
    "webbrowser.",
)
heard, listening = [], []


@sys.addaudithook
def hear(event, args):
    if listening and (event.startswith(NEVER) or _opens_bait(event, args)):
        heard.append((event, str(args)[:200]))


def _opens_bait(event, args):
    if not event.startswith(FILES):
        return False
    paths = [a for a in args if isinstance(a, (str, bytes, os.PathLike))]
    return any(MARK in os.fsdecode(path) for path in paths)


@contextlib.contextmanager
def listen():
    heard.clear()
    listening.append(True)
    try:
        yield
    finally:
        listening.clear()


def registered():
    """Dict from name to class, of all that the package registers."""
    for module in pkgutil.walk_packages(ft.__path__, "finetune_keras."):
        importlib.import_module(module.name)
    return {
        name: found
        # Each once: some have names of before, too.
        for found, name in object_registration.GLOBAL_CUSTOM_NAMES.items()
        # Functions have no config.
        if inspect.isclass(found)
        and found.__module__.startswith("finetune_keras")
    }


CLASSES = registered()


def functional(cls):
    inputs = keras.Input((4,))
    return cls(inputs, keras.layers.Dense(2)(inputs))


def text(cls, tokenizer):
    model = functional(cls)
    model.encoder = TextEncoder(tokenizer)
    return model


ARGUMENTS = {
    "FineTuneSequential": lambda _: ([keras.layers.Dense(2)],),
    "AnswerEncoder": lambda tokenizer: (tokenizer,),
    "Augmentation": lambda _: ([keras.layers.RandomFlip()],),
    "CategoryEncoding": lambda _: (["a", "b"],),
    "ChoiceEncoder": lambda tokenizer: (tokenizer,),
    "Calibration": lambda _: (0.5, [0.0, 1.0], "softmax", [0.4, 0.6]),
    "GrownEmbedding": lambda _: (
        keras.layers.Embedding(3, 2),
        keras.layers.Embedding(1, 2),
    ),
    "MaskEncoder": lambda tokenizer: (tokenizer,),
    "OneCycle": lambda _: (0.1, 10),
    "RandomTokenMask": lambda _: (0.1, 3),
    "SlantedTriangular": lambda _: (0.1, 10),
    "TagEncoder": lambda tokenizer: (tokenizer, 128, ["a", "b"]),
    "TextEncoder": lambda tokenizer: (tokenizer, 128, ["a", "b"]),
    "TextEncoding": lambda _: (["a", "b"],),
    "TokenTuning": lambda _: ([1, 2],),
    "WeightedAverage": lambda _: ([0.5, 0.5], "softmax"),
}


def config_of(cls, tokenizer):
    """A good config of a class, as a file holds it."""
    name = cls.__name__
    if name == "HubLayer":
        return hub("saved")
    if issubclass(cls, FineTuneModel):
        made = text(cls, tokenizer)
    else:
        made = cls(*ARGUMENTS.get(name, lambda _: ())(tokenizer))
    config = keras.saving.serialize_keras_object(made)
    return json.loads(json.dumps(config, default=dict))


def hub(handle):
    return {
        "module": "finetune_keras.models.hub",
        "class_name": "HubLayer",
        "config": {"handle": handle, "signature": None, "output_key": None},
        "registered_name": "finetune_keras>HubLayer",
    }


@pytest.fixture(scope="module")
def tokenizer():
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    return hub.tokenizers.BertTokenizer(words)


@pytest.fixture
def baits(tmp_path):
    """Values that a stranger would put into a config."""
    folder = tmp_path / MARK
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "secret.txt").write_text("secret")
    url = f"http://127.0.0.1:9/{MARK}"
    return [str(folder), str(folder / "secret.txt"), url, hub(str(folder))]


def places(value, path=()):
    """Lists the places of a config where something else could stand."""
    if path:
        yield path
    # What is inside of a class of Keras is Keras's own to guard.
    if isinstance(value, dict):
        if not str(value.get("module")).startswith("keras"):
            for key, inner in value.items():
                yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from places(inner, (*path, i))


def replaced(config, path, bait):
    config = copy.deepcopy(config)
    here = config
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = copy.deepcopy(bait)
    return config


def attempts(cls, config, baits):
    """Yields the configs that a stranger could write."""
    inner = config["config"]
    names = [
        (name,)
        for name, one in inspect.signature(cls).parameters.items()
        if name not in inner and one.kind == one.POSITIONAL_OR_KEYWORD
    ]
    for path in [*places(inner), *names]:
        for bait in baits:
            yield {**config, "config": replaced(inner, path, bait)}


def outcome(config):
    with contextlib.suppress(Exception), listen():
        keras.saving.deserialize_keras_object(config)
    return list(heard)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_no_config_of_a_class_reads_connects_or_runs(name, baits, tokenizer):
    cls = CLASSES[name]
    config = config_of(cls, tokenizer)
    if name != "finetune_keras>HubLayer":
        made = keras.saving.deserialize_keras_object(copy.deepcopy(config))
        assert type(made) is cls
    tried = 0
    for attempt in attempts(cls, config, baits):
        shown = json.dumps(attempt)[:600]
        assert not outcome(attempt), shown
        tried += 1
    assert tried >= len(baits) or not config["config"]


def test_the_hook_hears_what_must_not_happen(baits):
    """Without Keras's safe mode the same files are looked at."""
    saved, secret, url, inner = baits
    for act in (
        lambda: keras.saving.deserialize_keras_object(inner, safe_mode=False),
        lambda: open(secret).close(),
        lambda: __import__("urllib.request").request.urlopen(url, timeout=1),
        lambda: os.listdir(saved),
    ):
        with contextlib.suppress(Exception), listen():
            act()
        assert heard
