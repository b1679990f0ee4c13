"""Recommenders: new ids, vectors that stay, and one person's films."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing.processes import FreshProcess

layers = keras.layers
pytestmark = pytest.mark.usefixtures("op_by_op")
FILMS = [f"film {i}" for i in range(7)]


def two_towers():
    """Scores of all films for a person, by vectors of both."""
    person = keras.Input((), dtype="int32", name="person")
    x = layers.Embedding(5, 4, name="people")(person)
    x = layers.Dense(4, name="tower")(x)
    films = layers.Dense(7, use_bias=False, name="films")(x)
    return keras.Model(person, layers.Softmax()(films))


@pytest.mark.backends
def test_old_ids_give_what_they_gave_and_only_new_vectors_train():
    model, ids = two_towers(), np.arange(5)
    before = model.predict(ids, verbose=0)
    grown = ft.grow_vocabulary(model, "people", 3)
    np.testing.assert_array_equal(grown.predict(ids, verbose=0), before)
    layer = grown.get_layer("people")
    old = np.array(layer.old.embeddings)
    np.testing.assert_array_equal(old, np.array(model.weights[0]))
    np.testing.assert_allclose(
        np.array(layer.new.embeddings), np.tile(old.mean(0), (3, 1)), rtol=1e-6
    )
    assert grown.get_layer("tower").kernel is model.get_layer("tower").kernel
    ft.freeze(grown)
    ft.unfreeze(grown, "people/new")
    grown.compile(keras.optimizers.SGD(5.0), "sparse_categorical_crossentropy")
    grown.train_on_batch(np.array([1, 5, 7]), np.array([0, 1, 2]))
    np.testing.assert_array_equal(old, np.array(layer.old.embeddings))
    new = np.array(layer.new.embeddings)
    moved = (new != old.mean(0, keepdims=True).astype("float32")).any(1)
    assert not np.allclose(new[0], new[2]) and moved[0] and moved[2]
    np.testing.assert_allclose(new[1], old.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(grown.predict(ids, verbose=0), before)


def test_it_grows_again_and_masks_padding():
    ids = keras.Input((None,), dtype="int32")
    x = layers.Embedding(4, 3, mask_zero=True, name="words")(ids)
    model = keras.Model(ids, layers.LSTM(2)(x))
    rows = np.array([[3, 2, 0, 0], [1, 1, 1, 0]])
    before = model.predict(rows, verbose=0)
    model = ft.grow_vocabulary(
        ft.grow_vocabulary(model, "words", 2), "words", 1
    )
    np.testing.assert_allclose(
        model.predict(rows, verbose=0), before, rtol=1e-6
    )
    layer = model.get_layer("words")
    assert (layer.old.input_dim, layer.new.input_dim) == (6, 1)
    padded = model.predict(np.array([[6, 4, 0, 0]]), verbose=0)
    short = model.predict(np.array([[6, 4]]), verbose=0)
    np.testing.assert_allclose(padded, short, rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "count", "message"),
    [("film", 1, "It has .'people'"), ("tower", 1, "no|name of"),
     ("people", 0, "count")],
)  # fmt: skip
def test_what_cannot_grow_is_told(layer, count, message):
    with pytest.raises(ValueError, match=message):
        ft.grow_vocabulary(two_towers(), layer, count)


@pytest.mark.needs("3.10")
def test_the_table_of_a_language_model_is_none_to_grow():
    ids = keras.Input((3,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(9, 4, name="tokens")
    model = keras.Model(ids, table(table(ids), reverse=True))
    with pytest.raises(ValueError, match="'tokens' does more.*vocabulary_size"):
        ft.grow_vocabulary(model, "tokens", 1)


def test_one_persons_films_from_a_bundle(tmp_path):
    model = ft.grow_vocabulary(two_towers(), "people", 2)
    ids = np.arange(7)
    report = ft.evaluate(model, (ids, ids), FILMS, bootstrap=0, verbose=0)
    assert report.classes == FILMS
    path = ft.save_bundle(model, tmp_path / "films.keras", classes=FILMS)
    found = ft.load_bundle(path).predict(np.array([6])).top(3)
    scores = model.predict(np.array([6]), verbose=0)[0]
    best = np.argsort(-scores, kind="stable")[:3]
    assert [name for name, _ in found[0]] == [FILMS[i] for i in best]
    np.testing.assert_allclose([p for _, p in found[0]], scores[best])
    code = (
        "import sys, numpy as np, finetune_keras as ft\n"
        "bundle = ft.load_bundle(sys.argv[1])\n"
        "print(bundle.predict(np.array([6])).top(3))"
    )
    process = FreshProcess("-c", code, path)
    assert process.wait() == 0, process.stderr
    assert FILMS[best[0]] in process.stdout.splitlines()[-1]
