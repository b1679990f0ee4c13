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
