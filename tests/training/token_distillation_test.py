"""Distillation of models that write: each token of the answers is learnt."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize
from finetune_keras.text.prompt_tokens import windows_of
from finetune_keras.training import token_distillation

pytestmark = [
    pytest.mark.usefixtures("op_by_op"),
    pytest.mark.filterwarnings("ignore:.*does not"),
]
QUESTIONS = ["is a", "is b?", "a b a: b", "b"] * 2
ANSWERS = ["yes", "no", "no b", "a"] * 2
PLAN = ft.Plan([ft.Phase("all", epochs=5, learning_rate=3e-2)])


@pytest.fixture
def pair(small_writer):
    """A student and a teacher of another size."""
    models = small_writer(layers=1), small_writer(layers=2)
    return [randomize(model, seed=i) for i, model in enumerate(models)]


def log_softmax(x):
    return np.log(np.exp(x - x.max()) / np.exp(x - x.max()).sum())


def losses_by_hand(student, teacher, data, temperature, weight):
    """Of each token of the answers, from whole windows without padding."""
    found = []
    for ids, learnt in windows_of(student, data)[0]:
        ones = np.ones((1, len(ids) - 1), "int32")
        x = {"token_ids": ids[None, :-1], "padding_mask": ones}
        mine, said = (
            keras.ops.convert_to_numpy(model(x))[0]
            for model in (student, teacher)
        )
        for i in np.flatnonzero(learnt[1:]):
            soft = np.exp(log_softmax(said[i] / temperature))
            by_teacher = -(soft * log_softmax(mine[i] / temperature)).sum()
            by_label = -log_softmax(mine[i])[ids[i + 1]]
            found.append(
                weight * temperature**2 * by_teacher + (1 - weight) * by_label
            )
    return np.array(found)


@pytest.mark.backends
def test_a_student_learns_what_a_teacher_says_of_the_answers_alone(pair):
    student, teacher = pair
    data = ft.prompts(QUESTIONS, ANSWERS)
    wanted = losses_by_hand(student, teacher, data, 3.0, 0.7)
    least = losses_by_hand(teacher, teacher, data, 1.0, 1.0).mean()
    far_before = losses_by_hand(student, teacher, data, 1.0, 1.0).mean() - least
    before = [keras.ops.convert_to_numpy(v) for v in teacher.weights]
    train = ft.distill(student, teacher, data, temperature=3.0, weight=0.7)
    history = ft.fine_tune(
        student, PLAN, train, train[:4], batch_size=8, verbose=0
    ).history
    np.testing.assert_allclose(history["loss"][0], wanted.mean(), rtol=1e-4)
    after = losses_by_hand(student, teacher, data[:4], 3.0, 0.7)
    np.testing.assert_allclose(
        min(history["val_loss"]), after.mean(), rtol=1e-4
    )
    far = losses_by_hand(student, teacher, data, 1.0, 1.0).mean() - least
    assert far < 0.8 * far_before
    assert "val_token_agreement" in history
    for a, b in zip(before, teacher.weights, strict=True):
        np.testing.assert_array_equal(a, keras.ops.convert_to_numpy(b))
    judged = ft.evaluate(student, train, bootstrap=0, verbose=0)
    assert judged.metrics["perplexity"] > 1


def test_what_is_no_pair_is_refused(pair, small_writer):
    student, teacher = pair
    data = ft.prompts(QUESTIONS, ANSWERS)
    with pytest.raises(ValueError, match="the same tokens.*45 words"):
        ft.distill(student, small_writer("Llama3"), data)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="must both be models of KerasHub"):
        ft.distill(student, plain, data)
    with pytest.raises(ValueError, match="learns from texts"):
        ft.distill(student, teacher, (np.ones((2, 4)), np.ones((2, 4))))


def test_a_run_goes_on_with_its_own_teacher_alone(
    pair, small_writer, tmp_path
):
    student, teacher = pair
    other = randomize(small_writer(layers=2), seed=5)
    data = ft.prompts(QUESTIONS[:4], ANSWERS[:4])
    plan = ft.Plan([ft.Phase("all", epochs=1, learning_rate=1e-3)])
    for one in (teacher, teacher):
        train = ft.distill(student, one, data)
        ft.fine_tune(student, plan, train, checkpoint_dir=tmp_path, verbose=0)
    train = ft.distill(student, other, data)
    with pytest.raises(ValueError, match="state of another run: train.*teach"):
        ft.fine_tune(student, plan, train, checkpoint_dir=tmp_path, verbose=0)


def test_what_has_no_room_is_told(pair, monkeypatch):
    student, teacher = pair
    train = ft.distill(student, teacher, ft.prompts(QUESTIONS, ANSWERS))

    def refuse(*_):
        raise token_distillation.CacheRefused("no room")

    monkeypatch.setattr(token_distillation, "place_for", refuse)
    with pytest.raises(ValueError, match=r"part of the examples.*GiB"):
        ft.fine_tune(student, PLAN, train, verbose=0)
