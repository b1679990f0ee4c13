import keras
import numpy as np
import pytest

from finetune_keras.text.text_augmentation import text_augmentation
from finetune_keras.text.word_layers import (
    RandomCharacterNoise,
    RandomTokenMask,
    RandomWordDeletion,
    RandomWordMask,
    RandomWordSwap,
)

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="raw texts"
)
LONG = " ".join(f"word{i}" for i in range(2000))
ODD = ["", "one", "  two  blanks ", "\n", "Grüße 世界 👩‍🚀 नमस्ते", "a\tb\nc"]


def augmented(layer, texts):
    import tensorflow as tf

    found = layer(tf.constant(texts), training=True).numpy()
    return [text.decode() for text in found.reshape(-1)]


@on_tensorflow
@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_texts_are_changed_in_training_only(strength):
    import tensorflow as tf

    texts = [f"the film number {i} was a delight to watch" for i in range(40)]
    layer = text_augmentation(strength, seed=1)
    kept = layer(tf.constant(texts)).numpy()
    assert [text.decode() for text in kept] == texts
    found = augmented(layer, texts)
    assert found != texts and augmented(layer, texts) != found
    again = text_augmentation(strength, seed=1)
    assert augmented(again, texts) == found


@on_tensorflow
@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_odd_texts_survive(strength):
    layer = text_augmentation(strength, seed=0)
    for _ in range(10):
        found = augmented(layer, ODD)
        for text, original in zip(found, ODD, strict=True):
            assert bool(text.strip()) == bool(original.strip())
    assert len(augmented(layer, [LONG * 5])[0]) > 10_000


@on_tensorflow
def test_deletion_leaves_as_many_as_it_says_in_their_order():
    words = augmented(RandomWordDeletion(0.2, seed=0), [LONG])[0].split()
    assert 1500 < len(words) < 1700
    numbers = [int(word[4:]) for word in words]
    assert numbers == sorted(numbers)
    assert all(augmented(RandomWordDeletion(1.0, seed=0), ["a b c", "d"]))


@on_tensorflow
def test_swaps_move_as_many_as_they_say_and_lose_none():
    words = augmented(RandomWordSwap(0.3, seed=0), [LONG])[0].split()
    original = LONG.split()
    assert sorted(words) == sorted(original)
    moved = np.mean([a != b for a, b in zip(words, original, strict=True)])
    assert 0.28 < moved <= 0.3


@on_tensorflow
def test_words_never_leave_their_text():
    texts = [" ".join([letter] * 30) for letter in "abcdef"]
    for layer in (RandomWordSwap(1.0, seed=0), RandomWordDeletion(0.5, seed=0)):
        for text, letter in zip(augmented(layer, texts), "abcdef", strict=True):
            assert set(text.split()) == {letter}


@on_tensorflow
def test_masks_stand_in_the_place_of_words():
    words = augmented(RandomWordMask(0.15, "<mask>", seed=0), [LONG])[0].split()
    masked = [word == "<mask>" for word in words]
    assert len(words) == 2000 and 0.12 < np.mean(masked) < 0.18


@on_tensorflow
def test_typos_are_as_many_as_they_say_and_in_whole_characters():
    text = "größe" * 600
    found = augmented(RandomCharacterNoise(0.1, seed=0), [text])[0]
    assert set(found) <= set(text)
    assert abs(len(found) - len(text)) < 100 and found != text


@on_tensorflow
def test_a_model_on_raw_texts_is_saved_with_it(tmp_path):
    import tensorflow as tf

    inputs = keras.Input((), dtype="string")
    model = keras.Model(inputs, text_augmentation("strong", seed=2)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    texts = ["a film that was a delight to watch, from start to end"] * 4
    kept = loaded(tf.constant(texts)).numpy()
    assert [text.decode() for text in kept] == texts
    expected = augmented(text_augmentation("strong", seed=2), texts)
    found = loaded(tf.constant(texts), training=True).numpy()
    assert [text.decode() for text in found] == expected


@pytest.mark.backends
def test_token_masks_spare_what_they_are_told_to():
    ids = np.arange(3000).reshape(30, 100) % 50
    layer = RandomTokenMask(0.2, mask_id=103, keep_ids=[0, 1], seed=0)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(ids)), ids)
    found = keras.ops.convert_to_numpy(layer(ids, training=True))
    masked = found == 103
    assert 0.17 < masked[ids > 1].mean() < 0.23
    assert not masked[ids <= 1].any()
    np.testing.assert_array_equal(found[~masked], ids[~masked])
    with pytest.raises(ValueError, match="integers"):
        layer(np.ones((2, 3), "float32"), training=True)


@pytest.mark.backends
@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="texts work there"
)
def test_other_backends_say_so():
    with pytest.raises(ValueError, match="TensorFlow only"):
        text_augmentation("light")


@on_tensorflow
def test_bad_arguments():
    with pytest.raises(ValueError, match="strength"):
        text_augmentation("huge")
    with pytest.raises(ValueError, match="rate"):
        RandomWordSwap(1.5)
