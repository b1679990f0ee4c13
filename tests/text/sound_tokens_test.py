import io
import json

import keras
import numpy as np
import pytest
from scipy.io import wavfile

import finetune_keras as ft
from finetune_keras.data.audio import load_audio
from finetune_keras.results.written import token_losses, word_edits
from finetune_keras.testing import randomize
from finetune_keras.testing.processes import FreshProcess
from finetune_keras.text.generation import write
from finetune_keras.text.prompt_tokens import as_prompts, tokenize
from finetune_keras.text.sound_tokens import as_sounds

hub = pytest.importorskip("keras_hub", reason="needs finetune_keras[text]")
sentencepiece = pytest.importorskip("sentencepiece")
pytestmark = pytest.mark.usefixtures("op_by_op")
SAID = ["low", "high low", "high", "low"]


def pieces():
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["low", "high"] * 4),
        model_writer=file,
        vocab_size=20,
        model_type="bpe",
        hard_vocab_limit=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    return file.getvalue()


@pytest.fixture(scope="module")
def proto():
    return pieces()


@pytest.fixture
def listener(proto):
    """A Moonshine of one small block each side."""
    tokenizer = hub.tokenizers.MoonshineTokenizer(proto)
    backbone = hub.models.MoonshineBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        filter_dim=8,
        encoder_num_layers=1,
        decoder_num_layers=1,
        hidden_dim=8,
        intermediate_dim=16,
        encoder_num_heads=2,
        decoder_num_heads=2,
        max_position_embeddings=64,
    )
    preprocessor = hub.models.MoonshineAudioToTextPreprocessor(
        hub.layers.MoonshineAudioConverter(),
        tokenizer,
        decoder_sequence_length=8,
    )
    return randomize(hub.models.MoonshineAudioToText(backbone, preprocessor))


def wave(samples, seed=0):
    return np.random.default_rng(seed).normal(size=samples).astype("float32")


# Two of lengths that need no padding, two that do.
WAVES = [wave(n, i) for i, n in enumerate([1600, 2400, 1700, 2900])]


def losses_by_hand(model, sound, said):
    """Losses of a sound alone, by KerasHub's own preprocessor."""
    x, y, weights = model.preprocessor({"audio": sound[None], "text": [said]})
    x = {name: np.array(part) for name, part in x.items()}
    losses = keras.ops.sparse_categorical_crossentropy(
        keras.ops.convert_to_tensor(np.array(y)), model(x), from_logits=True
    )
    return keras.ops.convert_to_numpy(losses)[np.array(weights, bool)]


def test_losses_and_words_are_those_of_kerashub(listener):
    data = ft.prompts(WAVES[:2], SAID[:2])
    wanted = [
        losses_by_hand(listener, *pair)
        for pair in zip(WAVES[:2], SAID[:2], strict=True)
    ]
    report = ft.evaluate(listener, data, bootstrap=0, verbose=0)
    np.testing.assert_allclose(
        report.predictions.outputs[:, 0], [x.sum() for x in wanted], rtol=1e-3
    )
    listener.compile(sampler="greedy")
    alone = [
        listener.generate({"audio": x[None]}, max_length=8) for x in WAVES[:2]
    ]
    assert list(report.predictions.y_pred) == [x[0].strip() for x in alone]


def test_the_loss_is_that_of_the_words_and_both_sides_learn(listener):
    data = ft.prompts(WAVES, SAID)
    parts = tokenize(listener, data, 2).parts
    sizes = [x["encoder_input_values"].shape[:2] for x, *_ in parts]
    assert sizes == [(2, 2000), (2, 3200)]
    heard = [x["encoder_padding_mask"].sum(axis=1) for x, *_ in parts]
    assert np.concatenate(heard).tolist() == [1600, 1700, 2400, 2900]
    tokens = listener.preprocessor.tokenizer
    counts = [len(tokens(text)) + 1 for text in SAID]
    assert sum(weights.sum() for *_, weights in parts) == sum(counts)
    ft.add_adapters(listener, ft.LoRA(rank=2))
    history = ft.fine_tune(
        listener,
        ft.plans.adapters(epochs=2, learning_rate=3e-2),
        data,
        data[:2],
        batch_size=2,
        verbose=0,
    )
    assert history.history["loss"][1] < history.history["loss"][0]
    moved = [
        v.path
        for v in listener.trainable_variables
        if "lora_b" in v.path and np.any(keras.ops.convert_to_numpy(v) != 0)
    ]
    assert {path.split("_block")[0].split("/")[-1] for path in moved} == {
        "encoder",
        "decoder",
    }


def test_what_is_heard_hangs_on_no_other_sound(listener):
    # It ends in silence, which is no padding.
    silent = np.concatenate([WAVES[0], np.zeros(300, "float32")])
    whole, alone = (
        ft.prompts(sounds, SAID[: len(sounds)])
        for sounds in ([silent, WAVES[1]], [silent])
    )
    found = [token_losses(listener, data)[:, 0] for data in (whole, alone)]
    np.testing.assert_allclose(*found, rtol=1e-5)
    found = [write(listener, data.questions, 4) for data in (whole, alone)]
    assert found[0][0] == found[1][0]
    ((x, *_),) = tokenize(listener, alone).parts
    assert x["encoder_padding_mask"].sum() == len(silent)


ELSEWHERE = """
import json, sys
import keras
import finetune_keras as ft
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    tf.config.run_functions_eagerly(True)
print(json.dumps(ft.load_bundle(sys.argv[1]).predict(sys.argv[2:])))
"""


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_hears_files_elsewhere(listener, tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(2)]
    for path, sound, rate in zip(paths, WAVES[:2], (16000, 8000), strict=True):
        wavfile.write(path, rate, (sound * 8000).astype("int16"))
    assert len(load_audio(paths[1], 16000)) == 4800
    data = ft.prompts(paths, SAID[:2])
    assert data.names == list(map(str, paths))
    written = write(listener, data.questions)
    bundle = ft.save_bundle(listener, tmp_path / "listener.keras")
    process = FreshProcess("-c", ELSEWHERE, bundle, *paths)
    assert process.wait() == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == written
    for one in (paths[0], str(paths[0]), WAVES[0]):
        assert as_sounds(one) == [one]


def test_word_error_rate_is_that_of_all_words():
    true = ["The cat, sat.", "yes", "no dog here", ""]
    written = ["the cat sat", "yes yes yes", "dog", "a"]
    assert word_edits(true, written).tolist() == [0, 2, 2, 1]


def test_a_report_tells_it(listener):
    data = ft.prompts(WAVES, SAID)
    report = ft.evaluate(
        listener, data, slices={"n": [0, 0, 1, 1]}, bootstrap=5, verbose=0
    )
    edits = word_edits(SAID, report.predictions.y_pred)
    rate = edits.sum() / sum(len(text.split()) for text in SAID)
    np.testing.assert_allclose(report.metrics["word_error_rate"], rate)
    assert list(report.metrics) == [
        "perplexity",
        "word_error_rate",
        "exact_match",
    ]
    part = report.slices["n"]["1"]["metrics"]["word_error_rate"]
    np.testing.assert_allclose(part, edits[2:].sum() / 2)


@pytest.mark.parametrize(
    ("sounds", "message"),
    [
        (["none.wav"], "sound 0: .*none.wav"),
        ([wave(1599)], "0.100 s long, and 0.1 s is the least"),
        ([wave(1600).astype("int16")], "dtype int16, not .samples"),
        ([np.full(1600, np.nan)], "NaN or infinite"),
        ([wave(3200).reshape(2, 1600)], r"of shape \(2, 1600\)"),
    ],
)
def test_sounds_that_cannot_be_used_are_named(listener, sounds, message):
    with pytest.raises(ValueError, match=f"1 of 1 sounds.*{message}"):
        tokenize(listener, ft.prompts(sounds, ["low"]))


def test_sounds_are_for_those_who_hear(listener, small_writer):
    data = ft.prompts(WAVES, SAID)
    with pytest.raises(ValueError, match="Sounds are for a model that hears"):
        tokenize(small_writer(layers=1), data)
    with pytest.raises(ValueError, match="go with what is said"):
        ft.prompts(WAVES)
    with pytest.raises(ValueError, match="1 questions and 2 answers"):
        ft.prompts(WAVES[:1], SAID[:2])
    with pytest.raises(ValueError, match="Give a metric"):
        ft.evaluate(listener, data, metrics={"word_error_rate": len})
    with pytest.raises(ValueError, match="reads questions and writes"):
        tokenize(listener, ft.prompts(["a.wav"]))
    assert [len(data[rows]) for rows in (slice(2), [0])] == [2, 1]
    assert data.names[0].startswith("wave ")
    batches = pytest.importorskip("tensorflow").data.Dataset
    batches = batches.from_tensor_slices(
        {"audio": np.stack([WAVES[0]] * 3), "text": SAID[:3]}
    )
    for form in (batches.batch(2), (WAVES[:1] * 3, SAID[:3])):
        found = as_prompts(form)
        assert found.answers == SAID[:3] and len(found.questions[2]) == 1600
