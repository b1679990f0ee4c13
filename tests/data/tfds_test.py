import pathlib
import time
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds

from finetune_keras.data import tfds as module
from finetune_keras.data.images import load_image
from finetune_keras.data.tfds import from_tfds

FEATURES = tfds.features


def pixels(i):
    return np.random.default_rng(i).integers(0, 255, (12, 10, 3)).astype("u1")


class Small(tfds.core.GeneratorBasedBuilder):
    """Images of two classes, from known people."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent

    def _info(self):
        features = {
            "image": FEATURES.Image(shape=(None, None, 3)),
            "label": FEATURES.ClassLabel(names=["zebra", "ant"]),
            "tags": FEATURES.Sequence(FEATURES.ClassLabel(names=["p", "q"])),
            "text": FEATURES.Text(),
            "score": np.float32,
            "who": FEATURES.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=FEATURES.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._rows(range(40)),
            "test": self._rows(range(40, 50)),
            "extra": self._rows(range(50, 53)),
        }

    def _rows(self, numbers):
        for i in numbers:
            yield (
                i,
                {
                    "image": pixels(i),
                    "label": i % 2,
                    "tags": [[0], [0, 1], []][i % 3],
                    "text": f"text {i}",
                    "score": i / 2,
                    "who": f"p{i // 4}",
                },
            )

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    Small(data_dir=folder).download_and_prepare()
    return folder


def test_images_of_a_prepared_folder(prepared):
    data = from_tfds(str(prepared / "small"), image_size=8, seed=1)
    assert data.classes == ["zebra", "ant"]
    assert data.sizes == {"train": 34, "validation": 6, "test": 10}
    assert data.image_size == 8
    texts = data.columns["test"]["text"]
    (x, y), *_ = data.test.as_numpy_iterator()
    numbers = [int(text.split()[1]) for text in texts]
    expected = [load_image(pixels(i), 8) for i in numbers]
    np.testing.assert_array_equal(x, np.stack(expected))
    assert y.tolist() == [i % 2 for i in numbers]
    assert "not used: ['extra']" in str(data)


def test_by_name_and_groups(prepared):
    data = from_tfds("small", 8, data_dir=prepared, group_by="who")
    train, validation = (
        set(data.columns[s]["who"]) for s in ("train", "validation")
    )
    assert not train & validation and validation
    again = from_tfds("small:1.0.0", 8, data_dir=prepared, group_by="who")
    assert data.fingerprint == again.fingerprint
    with pytest.raises(ValueError, match="feature of one value"):
        from_tfds("small", 8, data_dir=prepared, group_by="tags")


def test_other_features(prepared):
    folder = prepared / "small" / "1.0.0"
    data = from_tfds(folder, features="text", label="score")
    assert (data.task, data.image_size) == ("regression", None)
    assert next(iter(data.test))[0].dtype == "string"
    data = from_tfds(folder, features="text", label="tags")
    assert (data.task, data.classes) == ("multi_label", ["p", "q"])
    assert data.counts["train"]["p"] > data.counts["train"]["q"] > 0


def test_bad_requests(prepared):
    with pytest.raises(ValueError, match="pass the `image_size`"):
        from_tfds(prepared / "small")
    with pytest.raises(ValueError, match="Features of the set.*'image'"):
        from_tfds(prepared / "small", 8, label="nothing")
    with pytest.raises(ValueError, match="GiB.*free memory"):
        from_tfds(prepared / "small", 2_000_000)


def test_a_folder_without_a_set(tmp_path):
    with pytest.raises(ValueError, match="use `image_folder`"):
        from_tfds(tmp_path, 8)


# === Without a network ===


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_no_network_is_told_in_seconds(kind, tmp_path, monkeypatch):
    def urlopen(url, timeout):
        if kind == "silent":
            time.sleep(60)
        raise OSError("Name or service not known")

    assert module._PATIENCE + 1 < 10
    monkeypatch.setattr(module, "_PATIENCE", 1)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="'mnist' is not prepared"):
        from_tfds("mnist", 28, data_dir=tmp_path)
    assert time.monotonic() - start < 10


def test_no_download_where_it_is_not_wanted(tmp_path):
    with pytest.raises(ValueError, match="download=False"):
        from_tfds("mnist", 28, data_dir=tmp_path, download=False)


def test_names_that_nobody_knows(tmp_path):
    with pytest.raises(ValueError, match="Nearest names: .*mnist"):
        from_tfds("mnst", 28, data_dir=tmp_path)
