"""Steps an epoch where a model takes several at once."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize

TEXTS = ["good film", "bad", "a very good film was not bad", "film"] * 6
LABELS = np.arange(24) % 2


def classifier(small_bert, at_once):
    backbone, tokenizer = small_bert
    config = backbone.get_config()
    config.update(num_layers=1, dropout=0.0)
    config.pop("trainable")
    model = ft.text_classifier(
        type(backbone).from_config(config),
        2,
        tokenizer=tokenizer,
        sequence_length=16,
        dropout=0.0,
    )
    randomize(model)
    model.compile(
        keras.optimizers.SGD(0.01),
        "sparse_categorical_crossentropy",
        steps_per_execution=at_once,
    )
    return model


def steps_of(model):
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def test_an_epoch_of_texts_has_as_many_steps_whatever_is_done_at_once(
    small_bert,
):
    ends = []
    for at_once in (1, 3):
        model = classifier(small_bert, at_once)
        keras.utils.set_random_seed(1)
        some = TEXTS[:14], LABELS[:14]
        fitted = model.fit(
            TEXTS, LABELS, 6, epochs=2, verbose=0, validation_data=some
        )
        assert steps_of(model) == 8
        loss = model.evaluate(*some, 7, verbose=0)
        validated = fitted.history["val_loss"][-1]
        assert loss == pytest.approx(validated, abs=1e-5)
        found = model.predict(some[0], verbose=0)[np.arange(14), some[1]]
        assert loss == pytest.approx(-np.log(found).mean(), abs=1e-5)
        ends.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_fine_tune_takes_each_text_once_an_epoch(small_bert, cache):
    model = classifier(small_bert, 3)
    plan = ft.Plan([ft.Phase("head", epochs=2, learning_rate=0.01)])
    data = TEXTS, LABELS
    history = ft.fine_tune(
        model, plan, data, data, batch_size=6, cache=cache, verbose=0
    )
    assert ("off" in history.phases[0]["cache"]) == (cache == "off")
    assert steps_of(model) == 8
    loss = model.evaluate(*data, verbose=0)
    assert loss == pytest.approx(history.best_value, abs=1e-5)


def test_a_number_of_steps_that_would_be_exceeded_is_refused():
    """Keras takes whole executions: 6 steps where 5 were asked for."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=2)
    plan = ft.Plan([ft.Phase("all", learning_rate=0.1)])
    data = np.ones((20, 3)), np.ones((20, 1))
    with pytest.raises(ValueError, match="`steps_per_epoch` .* multiple of 2"):
        ft.fine_tune(model, plan, data, batch_size=2, steps_per_epoch=5)
    with pytest.raises(ValueError, match="`validation_steps` .* multiple"):
        ft.fine_tune(model, plan, data, data, validation_steps=3)
    ft.fine_tune(model, plan, data, batch_size=2, steps_per_epoch=4, verbose=0)
    assert steps_of(model) == 4
