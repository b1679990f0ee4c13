"""Folders to batches: what is left out, what is told, what is trained on."""

import io
import os
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from finetune_keras.data.folders import image_folder, text_folder
from finetune_keras.data.image_check import FORMATS
from finetune_keras.data.images import load_image


def save(path, seed, **options):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (20, 26, 3)).astype("uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def fill(folder, counts, first=0):
    for name, count in counts.items():
        for i in range(count):
            save(folder / name / f"{i:03d}.jpg", first)
            first += 1
    return folder


def read(folder, **options):
    return image_folder(folder, 16, **{"verbose": 0, **options})


def paths(data, folder):
    """Paths by split, relative to the folder."""
    return {
        split: {os.path.relpath(p, folder) for p in columns["path"]}
        for split, columns in data.columns.items()
    }


def tiny_model(num_outputs):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(num_outputs, activation="softmax")(x)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["acc"])
    return model


@pytest.fixture
def broken_folder(tmp_path):
    """Classes with everything that people have in their folders."""
    folder = fill(tmp_path / "photos", {"cat": 30, "dog": 12})
    save(folder / "cat" / "new\nline.jpg", 990)
    for i, share in enumerate((0.2, 0.6, 0.97)):
        data = (folder / "cat" / f"{i:03d}.jpg").read_bytes()
        cut = data[: int(len(data) * share)]
        (folder / "cat" / f"cut\n{i}.jpg").write_bytes(cut)
    (folder / "dog" / "text.jpg").write_text("no image at all")
    (folder / "dog" / "zero.png").write_bytes(b"")
    with Image.open(folder / "dog" / "000.jpg") as image:
        image.convert("CMYK").save(folder / "dog" / "cmyk.jpg")
    sixteen = np.arange(20 * 26, dtype="uint16").reshape(20, 26) * 100
    Image.fromarray(sixteen).save(folder / "dog" / "sixteen.png")
    (folder / "empty").mkdir()
    (folder / "hollow").mkdir()
    (folder / "hollow" / "text.jpg").write_text("nor here")
    (folder / "README.txt").write_text("about")
    return folder


@pytest.mark.backends("True")
@pytest.mark.parametrize("cache", [True, False])
def test_a_broken_folder_is_told_and_trains(broken_folder, cache):
    data = read(broken_folder, cache=cache)
    other = f"not an image of {', '.join(FORMATS)}"
    assert sorted(data.bad_files) == [
        ("cat/cut\n0.jpg", "truncated or damaged: its header cannot be read"),
        ("cat/cut\n1.jpg", "truncated"),
        ("cat/cut\n2.jpg", "truncated"),
        ("dog/text.jpg", other),
        ("dog/zero.png", "empty, 0 bytes"),
        ("hollow/text.jpg", other),
    ]
    assert data.classes == ["cat", "dog"]
    assert sum(data.sizes.values()) == 31 + 14
    text = str(data)
    for part in (
        r"'cat/cut\n2.jpg': truncated",
        "'dog/cmyk.jpg': CMYK, converted to RGB",
        "'dog/sixteen.png': 16-bit, scaled to 8 bits",
        "Folders without a file, left out: ['empty']",
        "No usable file in the classes ['hollow']",
        "1 files outside of the folders of classes",
        "README.txt",
    ):
        assert part in text
    model = tiny_model(2)
    history = model.fit(
        data.train,
        validation_data=data.validation,
        epochs=2,
        class_weight=data.class_weight,
        verbose=0,
    )
    assert np.isfinite(history.history["val_loss"]).all()
    assert len(model.predict(data.test, verbose=0)) == data.sizes["test"]


def test_refused_files_are_named(broken_folder):
    with pytest.raises(ValueError) as caught:
        read(broken_folder, bad_files="refuse")
    message = str(caught.value)
    assert message.startswith("6 files cannot be used")
    assert r"'cat/cut\n0.jpg'" in message and "zero.png" in message
    for i in range(20):
        (broken_folder / "dog" / f"bad{i:02d}.jpg").write_text("x")
    with pytest.raises(ValueError, match="26 files(.|\n)*and 16 more"):
        read(broken_folder, bad_files="refuse")


def test_nothing_usable(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jpg").write_text("x")
    with pytest.raises(ValueError, match="None of the 1 files"):
        read(tmp_path)


def test_every_batch_is_what_load_image_gives(tmp_path):
    fill(tmp_path, {"a": 14, "b": 10})
    data = read(tmp_path, batch_size=4, crop_to_aspect_ratio=True)
    x, y = (
        np.concatenate(p)
        for p in zip(*data.test.as_numpy_iterator(), strict=True)
    )
    assert x.dtype == np.float32 and y.dtype == np.int32
    expected = [load_image(p, 16, True) for p in data.columns["test"]["path"]]
    np.testing.assert_array_equal(x, np.stack(expected))
    names = [p.split("/")[-2] for p in data.columns["test"]["path"]]
    assert [data.classes[i] for i in y] == names
    seen = [len(x) for x, _ in data.train]
    assert sum(seen) == data.sizes["train"] and max(seen) == 4
    assert int(data.train.cardinality()) == len(seen)


def test_a_file_that_changes_later_is_named(tmp_path):
    fill(tmp_path, {"a": 8, "b": 8})
    data = read(tmp_path, cache=False)
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(b"gone")
    with pytest.raises(Exception, match=r"\d\d\d.jpg"):
        list(data.validation)


def test_the_seed_decides(tmp_path):
    fill(tmp_path, {"a": 20, "b": 20})
    keras.utils.set_random_seed(3)
    first, second, other = (read(tmp_path, seed=s) for s in (1, 1, 2))
    assert paths(first, tmp_path) == paths(second, tmp_path)
    assert paths(first, tmp_path) != paths(other, tmp_path)
    assert first.fingerprint == second.fingerprint == other.fingerprint

    def epochs(data):
        return [[tuple(y) for _, y in data.train] for _ in range(3)]

    orders = epochs(first)
    assert orders == epochs(second)
    assert len({str(order) for order in orders}) == 3


def test_the_fingerprint_sees_content_names_and_labels(tmp_path):
    folder = fill(tmp_path / "a", {"x": 10, "y": 10})
    prints = {read(folder).fingerprint}
    shutil.copytree(folder, tmp_path / "copy")
    prints.add(read(tmp_path / "copy").fingerprint)
    assert len(prints) == 1
    (folder / "x" / "000.jpg").rename(folder / "y" / "new.jpg")
    prints.add(read(folder).fingerprint)
    (folder / "y" / "new.jpg").rename(folder / "y" / "newer.jpg")
    prints.add(read(folder).fingerprint)
    save(folder / "y" / "newer.jpg", 77)
    prints.add(read(folder).fingerprint)
    assert len(prints) == 4


def test_copies_stay_together(tmp_path):
    fill(tmp_path, {"a": 30, "b": 30})
    for i in range(8):
        shutil.copy(
            tmp_path / "a" / f"{i:03d}.jpg", tmp_path / "a" / f"c{i}.jpg"
        )
    for seed in range(5):
        data = read(tmp_path, seed=seed)
        assert data.duplicates == []
        of = {
            p: split for split, ps in paths(data, tmp_path).items() for p in ps
        }
        assert all(of[f"a/{i:03d}.jpg"] == of[f"a/c{i}.jpg"] for i in range(8))
    assert "8 examples are copies" in str(data)


def test_copies_with_another_label_are_told(tmp_path):
    fill(tmp_path, {"a": 10, "b": 10})
    shutil.copy(tmp_path / "a" / "004.jpg", tmp_path / "b" / "same.jpg")
    text = str(read(tmp_path))
    assert "1 copies have another label" in text
    assert "'a/004.jpg' and 'b/same.jpg'" in text


# === Given splits ===


def test_given_splits_are_used_and_missing_ones_cut(tmp_path):
    fill(tmp_path / "train", {"a": 20, "b": 20})
    fill(tmp_path / "test", {"a": 5, "b": 3}, first=500)
    data = read(tmp_path, validation_split=0.25, test_split=0.4)
    assert data.counts["test"] == {"a": 5, "b": 3}
    assert data.sizes == {"train": 30, "validation": 10, "test": 8}
    fill(tmp_path / "val", {"a": 4, "b": 4}, first=700)
    data = read(tmp_path)
    assert data.sizes == {"train": 40, "validation": 8, "test": 8}
    shutil.rmtree(tmp_path / "test")
    assert read(tmp_path, test_split=0).test is None


def test_copies_across_given_splits_are_reported(tmp_path):
    fill(tmp_path / "train", {"a": 12, "b": 12})
    fill(tmp_path / "test", {"a": 4, "b": 4}, first=500)
    shutil.copy(
        tmp_path / "train" / "a" / "003.jpg", tmp_path / "test" / "a" / "z.jpg"
    )
    data = read(tmp_path)
    assert data.duplicates == [("train/a/003.jpg", "test/a/z.jpg")]
    assert "'train/a/003.jpg' = 'test/a/z.jpg'" in str(data)


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, {"train": 10, "plane": 10})
    assert read(tmp_path).classes == ["plane", "train"]


def test_no_such_folder(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="subfolder of files for each class"):
        read(tmp_path)


# === Groups, balance ===


def test_groups_by_expression_and_by_callable(tmp_path):
    for i in range(60):
        save(tmp_path / "ab"[i % 2] / f"patient{i // 5}_{i}.jpg", i)
    for group_by in (r"patient(\d+)_", lambda name: name.split("_")[0][9:]):
        data = read(tmp_path, group_by=group_by)
        groups = [set(c["group"]) for c in data.columns.values()]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 12
        assert all(groups)
    with pytest.raises(ValueError, match="with one group"):
        read(tmp_path, group_by="patient")
    with pytest.raises(ValueError, match="does not match 60"):
        read(tmp_path, group_by="doctor(.)")


def test_balanced_draws(tmp_path):
    fill(tmp_path, {"a": 60, "b": 20, "c": 10})
    splits = {"validation_split": 0, "test_split": 0}
    data = read(tmp_path, balanced=True, **splits)
    other = read(tmp_path, **splits)
    # By which a run that goes on knows that it is given something else.
    assert data.train.fingerprint != other.train.fingerprint
    for _ in range(2):
        y = np.concatenate([y for _, y in data.train])
        assert np.bincount(y).tolist() == [30, 30, 30]
    assert int(data.train.cardinality()) == 3
    assert data.class_weight == {0: 1.0, 1: 1.0, 2: 1.0}
    orders = {str([tuple(y) for _, y in data.train]) for _ in range(2)}
    assert len(orders) == 2


def test_class_weight_is_that_of_scikit_learn(tmp_path):
    fill(tmp_path, {"a": 40, "b": 10})
    data = read(tmp_path, validation_split=0, test_split=0)
    assert data.class_weight == {0: 50 / 2 / 40, 1: 50 / 2 / 10}
    assert "Imbalance in train: 4.0 (a 40, b 10)" in str(data)


def test_a_class_of_one_file(tmp_path):
    fill(tmp_path, {"a": 20, "b": 20, "rare": 1})
    data = read(tmp_path)
    assert data.counts["train"]["rare"] == 1
    assert "No example in test: ['rare']" in str(data)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batchsize": 3}, TypeError, "unexpected keyword.*batchsize"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"bad_files": "ignore"}, ValueError, "bad_files='ignore'"),
        ({"cache": "never"}, ValueError, "cache='never'"),
        ({"validation_split": 1.5}, ValueError, "validation_split=1.5"),
        (
            {"validation_split": 0.5, "test_split": 0.5},
            ValueError,
            "Nothing is left",
        ),
        ({"classes": ["a"]}, ValueError, "does not name"),
    ],
)
def test_bad_options(options, error, message, tmp_path):
    fill(tmp_path, {"a": 5, "b": 5})
    with pytest.raises(error, match=message):
        read(tmp_path, **options)


# === Texts ===


def test_texts(tmp_path):
    for i in range(24):
        path = tmp_path / ("good", "bad")[i % 2] / f"{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"\ufeffÜber film {i}\nline", encoding="utf-8")
    (tmp_path / "bad" / "latin.txt").write_bytes("é".encode("latin-1") * 3)
    (tmp_path / "bad" / "blank.txt").write_text(" \n")
    data = text_folder(tmp_path, seed=4)
    assert data.bad_files == [
        ("bad/blank.txt", "empty"),
        ("bad/latin.txt", "not UTF-8 at byte 0"),
    ]
    x, y = next(iter(data.test))
    first = open(data.columns["test"]["path"][0], encoding="utf-8-sig").read()
    assert x[0].numpy().decode() == first and first.startswith("Über")
    assert data.classes == ["bad", "good"] and y.dtype == "int32"
    with pytest.raises(ValueError, match="2 files cannot"):
        text_folder(tmp_path, bad_files="refuse")


def test_memory_that_is_kept_equals_files(tmp_path):
    fill(tmp_path, {"a": 9, "b": 9})
    batches = [
        [x.numpy() for x, _ in read(tmp_path, cache=cache).train]
        for cache in (True, False)
    ]
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_animation_gives_its_first_frame(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "a" / "film.gif").write_bytes(buffer.getvalue())
    data = read(tmp_path, validation_split=0, test_split=0)
    assert "2 frames" in str(data)
    assert load_image(buffer.getvalue(), 4)[0, 0].tolist() == [255, 0, 0]
