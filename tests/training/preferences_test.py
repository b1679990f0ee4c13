"""DPO: the chosen gain on the rejected, and the base stays what it is."""

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras import testing
from finetune_keras.training.preferences import PreferenceLoss

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
pytest.importorskip("tensorflow_text", reason="its tokenisers need it")
LETTERS = "abcdefgh"


def language_model():
    letters = ["<|endoftext|>", *LETTERS, *"Ġxy", "xy"]
    tokenizer = hub.tokenizers.GPT2Tokenizer(
        {letter: i for i, letter in enumerate(letters)}, ["x y"]
    )
    backbone = hub.models.GPT2Backbone(
        vocabulary_size=13, num_layers=1, num_heads=2, hidden_dim=8,
        intermediate_dim=16, max_sequence_length=16, dropout=0.0,
    )  # fmt: skip
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, 16)
    return testing.randomize(hub.models.GPT2CausalLM(backbone, preprocessor))


def pairs(count):
    """Made preferences: the answer that repeats the prompt is the better."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list(LETTERS), 3)) for _ in range(count)]
    return words, [w[0] * 2 for w in words], [w[::-1][:2] + "h" for w in words]


@pytest.fixture(scope="module")
def adapted():
    with pytest.warns(UserWarning, match="does not write adapters"):
        return ft.add_adapters(language_model(), ft.LoRA(rank=2))


def array(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def test_scores_are_the_likelihood_of_the_answers(adapted):
    x, y = ft.preferences(adapted, ["ab", "c"], ["de", ""], ["f", "gh"])
    # Start and end are one token, 0, and a blank is 9.
    expected = [
        [[0, 1, 2, 9, 4, 5, 0], [0, 1, 2, 9, 6, 0, 0]],
        [[0, 3, 9, 0, 0, 0, 0], [0, 3, 9, 7, 8, 0, 0]],
    ]
    expected = np.array(expected, "int32")
    np.testing.assert_array_equal(x["token_ids"], expected)
    assert x["padding_mask"].sum(-1).tolist() == [[7, 6], [4, 6]]
    assert x["answer_mask"].sum(-1).tolist() == [[4, 3], [2, 4]]
    with ft.disable_adapters(adapted):
        logits = array(adapted({
            "token_ids": expected[0], "padding_mask": x["padding_mask"][0],
        }))  # fmt: skip
    shifted = logits - logits.max(-1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    chosen = sum(chances[0, i, expected[0, 0, i + 1]] for i in range(2, 6))
    rejected = sum(chances[1, i, expected[0, 1, i + 1]] for i in range(2, 5))
    np.testing.assert_allclose(y[0], [chosen, rejected], rtol=1e-4)


def test_the_margin_grows_and_the_base_stays_equal_to_the_bit(adapted):
    words = pairs(200)
    train = ft.preferences(adapted, *words, batch_size=200)
    x = {k: v.reshape(-1, v.shape[-1]) for k, v in train[0].items()}
    x.pop("answer_mask")
    with ft.disable_adapters(adapted):
        base = array(adapted(x))
    trainer = ft.preference_model(adapted, beta=0.2)
    plan = ft.Plan([ft.Phase("adapter_default", epochs=6, learning_rate=3e-2)])
    ft.fine_tune(trainer, plan, train, batch_size=50, verbose=0)
    scores = trainer.predict(train[0], batch_size=200, verbose=0)
    gains = scores - train[1]
    assert (gains[:, 0] - gains[:, 1]).mean() > 1.0
    with ft.disable_adapters(adapted):
        np.testing.assert_array_equal(array(adapted(x)), base)
        again = trainer.predict(train[0], batch_size=200, verbose=0)
    np.testing.assert_array_equal(again, train[1])


def test_the_loss_is_that_of_the_paper():
    base = np.array([[-3.0, -2.0], [-1.0, -4.0]], "float32")
    scores = np.array([[-2.0, -2.5], [-1.5, -3.0]], "float32")
    margins = np.array([1.5, -1.5])
    expected = np.log1p(np.exp(-0.4 * margins)).mean()
    loss = PreferenceLoss(0.4)
    np.testing.assert_allclose(array(loss(base, scores)), expected, rtol=1e-5)
    assert type(loss).from_config(loss.get_config()).beta == 0.4


@pytest.mark.parametrize(
    "texts, options, message",
    [
        ((["a"], ["b", "c"], ["d"]), {}, "one chosen and one rejected"),
        (("a", ["b"], ["c"]), {}, "lists of strings, here of one"),
        ((["a"], ["b"], ["c" * 20]), {}, "24 tokens.*room for 16"),
        ((["a"], ["b"], ["c"]), {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_does_not_fit_is_told(texts, options, message, adapted):
    with pytest.raises(ValueError, match=message):
        ft.preferences(adapted, *texts, **options)


def test_a_model_without_adapters_or_of_another_kind_is_refused(adapted):
    with pytest.raises(ValueError, match="has no adapters"):
        ft.preference_model(language_model())
    with pytest.raises(ValueError, match="Preferences are for a `CausalLM`"):
        ft.preferences(adapted.backbone, ["a"], ["b"], ["c"])
