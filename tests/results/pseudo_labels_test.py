"""`pseudo_labels`: more to train on, of what a model is sure of."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.results.pseudo_labels import _surest

pytestmark = pytest.mark.usefixtures("op_by_op")
RNG = np.random.default_rng(0)
NAMES = np.array(["wasp", "ant", "bee"])
ORDER = ["bee", "wasp", "ant"]


def points(count, spread=0.8):
    """Points around three corners, and their classes as in `ORDER`."""
    y = np.arange(count) % 3
    x = 2 * np.eye(3)[y] + RNG.normal(0, spread, (count, 3))
    return x.astype("float32"), y


X, Y = points(60)
MORE, TRUE = points(300)


def make_data(**options):
    labels = np.array(ORDER)[Y]
    return ft.from_arrays(X, labels, classes=ORDER, seed=1, **options)


def make_model(sharpness=1.5, classes=3):
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(classes, activation="softmax")
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([sharpness * np.eye(3)[:, :classes], np.zeros(classes)])
    return model


@pytest.mark.parametrize("precision", [0.0, 0.7, 0.8, 0.9])
def test_the_surest_of_each_class(precision):
    chances = RNG.dirichlet([0.4, 0.7, 0.2], 120)
    guessed, sure = chances.argmax(axis=1), chances.max(axis=1)
    wanted = []
    for count in range(1, 21):
        rows = [
            row
            for c in range(3)
            for row in np.flatnonzero(guessed == c)[
                np.argsort(-sure[guessed == c])[:count]
            ]
        ]
        if sure[rows].mean() < precision:
            break
        wanted = sorted(rows)
    np.testing.assert_array_equal(_surest(chances, precision), wanted)
    assert 3 <= len(wanted) <= 60
    assert len(_surest(chances[:3], 0.0)) <= 3
    assert not len(_surest(np.full((9, 3), 1 / 3), 0.5))


@pytest.mark.backends
def test_what_is_sure_is_added_to_the_training_data():
    data, model = make_data(), make_model()
    given = np.concatenate([MORE, X, MORE[:5]])
    more = ft.pseudo_labels(model, data, given, precision=0.9)
    guessed = more.columns["train"]["guessed"]
    x, y = more.arrays("train")
    taken = [int(np.flatnonzero((MORE == row).all(1))[0]) for row in x[guessed]]
    np.testing.assert_array_equal(y[guessed], MORE[taken].argmax(axis=1))
    counts = np.bincount(y[guessed])
    assert len(set(taken)) == len(taken) == guessed.sum()
    assert counts.min() == counts.max() > 5
    assert (TRUE[taken] == y[guessed]).mean() > 0.9
    for found, known in (
        *zip(more.arrays("test"), data.arrays("test"), strict=True),
        *zip(more.arrays("validation"), data.arrays("validation"), strict=True),
        (x[~guessed], data.arrays("train")[0]),
        (y[~guessed], data.arrays("train")[1]),
    ):
        np.testing.assert_array_equal(found, known)
    assert more.classes == ORDER and more.task == "classification"
    assert f"{len(taken)} of 300 examples without labels" in str(more)
    assert more.fingerprint != data.fingerprint and not more.duplicates
    again = ft.pseudo_labels(model, more, MORE, precision=0.9)
    assert again.sizes["train"] >= more.sizes["train"]


def test_too_sure_a_model_is_calibrated_first():
    data = make_data(validation_split=0.4)
    usual = ft.pseudo_labels(make_model(), data, MORE, 0.9)
    sharp = ft.pseudo_labels(make_model(4.0), data, MORE, 0.9)
    many = 60 + 3 * 50  # half of an equal share
    assert usual.sizes["train"] < many > sharp.sizes["train"]


def test_none_is_taken_where_nothing_is_sure():
    data = make_data(columns={"place": np.arange(60)})
    with pytest.warns(UserWarning, match="None of 300 examples"):
        more = ft.pseudo_labels(make_model(0.01), data, MORE)
    assert more.sizes == data.sizes and "None of 300" in more.notes[-1]
    np.testing.assert_array_equal(
        more.arrays("train")[0], data.arrays("train")[0]
    )
    place = more.columns["train"]["place"]
    np.testing.assert_array_equal(place, data.columns["train"]["place"])


def test_datasets_and_other_columns():
    import tensorflow as tf

    data = make_data(columns={"place": np.arange(60)}, group_by=np.arange(60))
    batches = tf.data.Dataset.from_tensor_slices((MORE, TRUE)).batch(64)
    more = ft.pseudo_labels(make_model(), data, batches)
    wanted = ft.pseudo_labels(make_model(), data, MORE.tolist())
    np.testing.assert_array_equal(
        more.arrays("train")[0], wanted.arrays("train")[0]
    )
    guessed = more.columns["train"]["guessed"]
    assert set(more.columns["train"]["place"][guessed]) == {None}
    assert set(more.groups["train"][guessed]) == {None}


def test_texts(small_bert):
    backbone = ft.text_backbone(*small_bert, sequence_length=8)
    texts = ["good film", "bad film", "good café", "not bad", "a good", "a bad"]
    data = ft.from_arrays(texts, ["pos", "neg"] * 3, test_split=0, seed=0)
    model = ft.text_classifier(backbone, data.classes)
    more = ft.pseudo_labels(model, data, [*texts, "bad good", "film"], 0.0)
    found = {text.decode() for text in more.arrays("train")[0]}
    assert found <= {*texts, "bad good", "film"}
    assert 1 <= more.columns["train"]["guessed"].sum() <= 2


def test_a_folder_of_photos(tmp_path):
    from PIL import Image

    for place, colors in (
        ("pets/dog", range(0, 60, 12)),
        ("pets/cat", range(180, 240, 12)),
        ("more", (20, 200, 90, 230)),
        ("more/inner", (5, 0)),
    ):
        (tmp_path / place).mkdir(parents=True)
        for i, color in enumerate(colors):
            path = tmp_path / place / f"{i}.png"
            Image.new("RGB", (8, 8), (color,) * 3).save(path)
    (tmp_path / "more" / "bad.png").write_bytes(b"no image")
    data = ft.image_folder(
        tmp_path / "pets", 8, validation_split=0.3, test_split=0, verbose=0
    )
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    dense = keras.layers.Dense(1, activation="sigmoid")
    model = keras.Model(inputs, dense(x))
    dense.set_weights([np.full((3, 1), -0.01), np.array([3.6])])
    more = ft.pseudo_labels(model, data, tmp_path / "more", precision=0.0)
    guessed = more.columns["train"]["guessed"]
    x, y = more.arrays("train")
    found = {
        (float(p[0, 0, 0]), int(i))
        for p, i in zip(x[guessed], y[guessed], strict=True)
    }
    # 0 is a copy, and of five others one of each class is taken.
    assert found == {(5.0, 1), (230.0, 0)}
    paths = more.columns["train"]["path"][guessed]
    assert (
        sorted(p[-11:] for p in paths) == ["inner/0.png", "/more/3.png"][::-1]
    )
    assert more.bad_files[0][0] == "bad.png" and not more.duplicates
    with pytest.raises(ValueError, match="must be a folder"):
        ft.pseudo_labels(model, data, np.zeros((3, 8, 8, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": (X, Y)}, "must be `DataSplits`"),
        ({"data": ft.from_arrays(X, X[:, 0])}, "regression"),
        ({"data": make_data(validation_split=0)}, "validation data"),
        ({"precision": 1.0}, "`precision` must be"),
        ({"unlabeled": MORE[:, :2]}, "as `data` has them"),
        ({"unlabeled": ["a", "b"]}, "as `data` has them"),
        ({"unlabeled": X}, "nothing that `data` has not"),
        ({"model": make_model(classes=2)}, "must hold 2 different names"),
    ],
)
def test_what_is_refused(change, message):
    given = {"model": make_model(), "data": make_data(), "unlabeled": MORE}
    with pytest.raises(ValueError, match=message):
        ft.pseudo_labels(**{**given, **change})


def test_a_model_with_the_classes_in_another_order():
    model = make_model()
    model.class_names = sorted(ORDER)
    with pytest.raises(ValueError, match="in their order"):
        ft.pseudo_labels(model, make_data(), MORE)
