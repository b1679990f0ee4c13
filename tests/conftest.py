"""What all tests share."""

import contextlib
import functools
import gc
import io
import itertools
import os
import pathlib
import random
import runpy
import sys
import tempfile
import typing
from importlib.metadata import version

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
# What is remembered of checked files stays out of the user's cache.
os.environ.setdefault("FINETUNE_KERAS_CACHE", tempfile.mkdtemp())

import pytest  # noqa: E402

if os.environ["KERAS_BACKEND"] == "jax":
    # Tests compile much, often the same, and compute little. At a flag that it
    # does not know, not yet or not any more, JAX ends the process.
    flags = "--xla_backend_optimization_level=0"
    if version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false"
        # Small programs are not cut up for threads that there are not.
        flags += " --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)

ROOT = pathlib.Path(__file__).parent.parent


def pytest_configure(config):
    """Sets up what runs tests, and not what only gives them to others."""
    gives = getattr(config.option, "numprocesses", None)
    if gives and not hasattr(config, "workerinput"):
        return
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Most graphs run a few times only: to improve them costs more than it
        # gives.
        options = {"disable_meta_optimizer": True}
        tf.config.optimizer.set_experimental_options(options)
        leave_pipelines_untuned(tf.data)
        keep_kernels(tf.random)
        share_kernels_of_variables()
        forget_origins()
    # What Keras adds to the tracebacks of errors, it adds at each call of a
    # layer.
    keras.config.disable_traceback_filtering()
    if sys.version_info < (3, 12):
        remember_protocols()
    # With all that: fresh processes are no slower.
    serve_fresh_processes(keras.backend.backend())
    # What is traced is a great many objects: to look through them all, again
    # and again, is a fifth of the time. After each file is often enough.
    gc.disable()


def leave_pipelines_untuned(data):
    """No thread tunes what an iterator reads, which is over at once.

    Such a thread sleeps for up to a minute, and may miss that its iterator is
    to be deleted, which then waits for it.
    """
    options, begin = data.Options(), data.Dataset.__iter__
    options.autotune.enabled = False
    data.Dataset.__iter__ = lambda self: begin(self.with_options(options))


def keep_kernels(module):
    """TensorFlow takes a seed, and does not forget its kernels for that.

    To make them again is a third of the time of a small model. Random kernels
    with a state would need it, and what Keras draws has none.
    """
    from tensorflow.python.eager import context

    def set_seed(seed):
        here = context.context()
        here._seed, here._rng = seed, random.Random(seed)

    module.set_seed = set_seed


def share_kernels_of_variables():
    """Variables are made by one kernel, whatever they are called.

    Else each name, as of the slots of each optimizer, takes a kernel of its
    own, which is half the time of a variable.
    """
    from tensorflow.python.ops import gen_resource_variable_ops as ops

    make = ops.var_handle_op

    def make_nameless(*args, debug_name="", **kwargs):
        return make(*args, **kwargs)

    ops.var_handle_op = make_nameless


def forget_origins():
    """Ops of a graph do not know where they were made.

    To tell each its whole stack is a sixth of a trace.
    """
    from tensorflow.python.util import tf_stack

    here = tf_stack.extract_stack()
    tf_stack.extract_stack = lambda stacklevel=1: here


def remember_protocols():
    """What a protocol asks for is listed once, as in later versions of Python.

    TensorFlow asks of nearly all that it is given whether it is a tensor.
    """
    typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)


def serve_fresh_processes(backend):
    """Forks what makes fresh processes, before this one has done a thing.

    To import Keras once more would take seconds.
    """
    if sys.platform != "linux":
        return
    place = ROOT / "finetune_keras" / "testing" / "fork_server.py"
    pipes = runpy.run_path(str(place))["fork"]()
    # The library is not among what fresh processes have imported.
    from finetune_keras.testing import processes

    processes.ask_of(backend, *pipes)


FILES = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def collected():
    """What the file of tests before has left is freed.

    Once a file is often enough; what stays then is not looked through again
    before some files more, or memory would grow.
    """
    import keras

    keras.backend.clear_session(free_memory=False)
    if next(FILES) % 15 == 0:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


# The dearest files: one of them, begun last, would keep one process alone.
FIRST = (
    "tune_test kills_test distribution_test examples_test adapters_test "
    "resume_test retrace_mirrored_test switching_test results_test "
    "backbones_test applications_test text_tasks_test text_model_test "
    "random_models_test hub_backbones_test"
).split()


def pytest_ignore_collect(collection_path, config):
    """Leaves files out that have no test for the backends."""
    if config.option.markexpr == "backends" and collection_path.suffix == ".py":
        return "backends" not in collection_path.read_text() or None


def pytest_collection_modifyitems(config, items):
    """Puts the tests of the dearest files first."""
    items.sort(key=lambda item: item.path.stem not in FIRST)
    if config.option.markexpr == "backends":
        items[:] = filter(of_backends, items)


def of_backends(item):
    """Whether a test is one for all backends."""
    mark = item.get_closest_marker("backends")
    return bool(mark) and has_a_part(item, mark.args)


def has_a_part(item, parts):
    """Whether a test has a part of its id among these, or there are none."""
    parameters = item.name.partition("[")[2]
    return any(part in parameters for part in parts or [""])


def pytest_runtest_setup(item):
    """Skips what asks for something that this Keras does not have yet."""
    for mark in item.iter_markers("needs"):
        import keras

        version, *parts = mark.args
        if has_a_part(item, parts) and older(keras.__version__, version):
            pytest.skip(f"needs Keras {version}, here is {keras.__version__}")


def older(version, other):
    one, two = (v.split(".")[:2] for v in (version, other))
    return list(map(int, one)) < list(map(int, two))


@pytest.fixture(autouse=True)
def fixed_start():
    """Each test starts from one seed, and from the settings of Keras."""
    import keras

    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy()
    image_format = keras.config.image_data_format()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(image_format)


@pytest.fixture
def op_by_op(request):
    """TensorFlow traces nothing: cheaper for tests of few steps.

    Those that are marked `traced` are traced all the same.
    """
    import keras

    traced = request.node.get_closest_marker("traced")
    if traced or keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def garbage_stays(monkeypatch):
    """Searches collect no garbage: that is most of the time of small ones."""
    monkeypatch.setattr(gc, "collect", lambda *generation: 0)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the real data; the test is skipped where there is none."""
    default = ROOT.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("FINETUNE_KERAS_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            f"No real data at {folder}. Name its folder in the environment "
            "variable FINETUNE_KERAS_DATA."
        )
    return folder


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """Runs a script of `examples/` in this process; gives what it prints."""

    def run(script, *arguments, folder=tmp_path):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        monkeypatch.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
        return printed.getvalue()

    return run


WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a good bad film was is not very ##ly ##s "
    "ann bob paris who ran where , . ? ! café 好 电 影"
).split()


@pytest.fixture
def small_bert():
    """A BERT of two small layers, random weights, and its tokeniser."""
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    backbone = hub.models.BertBackbone(
        vocabulary_size=len(WORDS),
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=32,
    )
    tokenizer = hub.tokenizers.BertTokenizer(WORDS, lowercase=True)
    return backbone, tokenizer


LETTERS = [*"abcdefghijklmnopqrstuvwxyz:?.", "Ġ", "Ċ"]
PIECES = ["Ġa", "Ġb", "Ġis", "Ġyes", "Ġno", "is", "ye", "yes", "no"]
MERGES = ["Ġ a", "Ġ b", "i s", "Ġ is", "y e", "ye s", "n o", "Ġ yes", "Ġ no"]
ENDS = {
    "GPT2": ["<|endoftext|>"],
    "Llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ],
}


@pytest.fixture
def small_writer():
    """Makes models that write, of small layers, and their tokenisers."""
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")

    def make(kind="GPT2", length=24, layers=2):
        words = [*LETTERS, *PIECES, *ENDS[kind]]
        options = {"num_heads": 2, "max_sequence_length": 32, "dropout": 0.0}
        if kind == "Llama3":
            options = {"num_query_heads": 2, "num_key_value_heads": 1}
            options["tie_word_embeddings"] = True
        backbone = getattr(hub.models, f"{kind}Backbone")(
            vocabulary_size=len(words),
            num_layers=layers,
            hidden_dim=8,
            intermediate_dim=16,
            **options,
        )
        tokenizer = getattr(hub.tokenizers, f"{kind}Tokenizer")(
            {word: i for i, word in enumerate(words)}, MERGES
        )
        preprocessor = getattr(hub.models, f"{kind}CausalLMPreprocessor")
        task = getattr(hub.models, f"{kind}CausalLM")
        return task(backbone, preprocessor(tokenizer, sequence_length=length))

    return make
