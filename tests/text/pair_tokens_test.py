import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.testing import randomize
from finetune_keras.text.prompt_tokens import tokenize

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
pytestmark = pytest.mark.usefixtures("op_by_op")
QUESTIONS = ["ab", "ba", "abba", "b"]
ANSWERS = ["b a", "a b", "b", "a"]


@pytest.fixture
def translator():
    """A BART of one small layer each side, which reads letters."""
    words = ["<s>", "<pad>", "</s>", "<mask>", *"abc", "Ġ", "ab"]
    tokenizer = hub.tokenizers.BartTokenizer(
        {word: i for i, word in enumerate(words)}, ["a b"]
    )
    backbone = hub.models.BartBackbone(
        vocabulary_size=len(words),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=16,
        dropout=0.0,
    )
    preprocessor = hub.models.BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=12, decoder_sequence_length=8
    )
    return randomize(hub.models.BartSeq2SeqLM(backbone, preprocessor))


def test_questions_are_read_and_answers_written(translator):
    data = ft.prompts(QUESTIONS, ANSWERS)
    ((x, y, weights),) = tokenize(translator, data).parts
    assert x["encoder_token_ids"].shape == (4, 6)
    given, after, mask = translator.preprocessor(
        {"encoder_text": QUESTIONS, "decoder_text": ANSWERS}
    )
    given = {name: np.array(part) for name, part in given.items()}
    losses = keras.ops.sparse_categorical_crossentropy(
        keras.ops.convert_to_tensor(np.array(after)),
        translator(given),
        from_logits=True,
    )
    losses = keras.ops.convert_to_numpy(losses)[np.array(mask)]
    report = ft.evaluate(translator, data, bootstrap=0, verbose=0)
    found = report.metrics["perplexity"]
    np.testing.assert_allclose(found, np.exp(losses.mean()), rtol=1e-4)
    assert weights.sum() == len(losses) == np.array(mask).sum()
    history = ft.fine_tune(
        translator, ft.plans.full(epochs=2, learning_rate=3e-2), data, verbose=0
    )
    np.testing.assert_allclose(history.history["loss"][0], losses.mean(), 1e-4)
    assert history.history["loss"][1] < losses.mean()


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_reads_and_writes_as_much(translator, tmp_path):
    """KerasHub forgets both lengths of the preprocessor."""
    path = ft.save_bundle(translator, tmp_path / "translator.keras")
    bundle = ft.load_bundle(path)
    lengths = ["encoder_sequence_length", "decoder_sequence_length"]
    preprocessor = bundle.model.preprocessor
    assert [getattr(preprocessor, name) for name in lengths] == [12, 8]
    assert "get_config" not in vars(translator.preprocessor)
    assert len(bundle.predict(["ab", "b"])) == 2


def test_what_a_pair_cannot_be_is_refused(translator):
    for data in (ft.prompts(["ab"]), ft.prompts(["a"], ["b"], packing=True)):
        with pytest.raises(ValueError, match="reads questions and writes"):
            tokenize(translator, data)
    with pytest.warns(UserWarning, match="1 questions and 0 answers fill"):
        tokenize(translator, ft.prompts(["ab" * 12], ["a"]))
