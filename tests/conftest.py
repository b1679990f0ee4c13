"""What all tests share."""

import os
import pathlib
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
# What is remembered of checked files stays out of the user's cache.
os.environ.setdefault("FINETUNE_KERAS_CACHE", tempfile.mkdtemp())

import keras  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def fixed_start():
    """Each test starts from one seed, and from the settings of Keras."""
    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy()
    image_format = keras.config.image_data_format()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(image_format)


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


WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a good bad film was is not very ##ly ##s "
    "ann bob paris who ran where , . ? ! café 好 电 影"
).split()


@pytest.fixture
def small_bert():
    """A BERT of three small layers, random weights, and its tokeniser."""
    hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
    backbone = hub.models.BertBackbone(
        vocabulary_size=len(WORDS),
        num_layers=3,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=32,
    )
    tokenizer = hub.tokenizers.BertTokenizer(WORDS, lowercase=True)
    return backbone, tokenizer
