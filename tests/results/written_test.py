import json

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.engine import graph
from finetune_keras.results.written import rouge_l
from finetune_keras.testing import randomize
from finetune_keras.testing.processes import FreshProcess

pytestmark = pytest.mark.usefixtures("op_by_op")
QUESTIONS = ["is a", "is b?", "a b a: b", "b"] * 2
ANSWERS = ["yes", "no", "no b", "a"] * 2


def losses_by_hand(model, text, counted):
    """Losses of the last so many tokens, by KerasHub's own preprocessor."""
    x, y, weights = model.preprocessor([text])
    losses = keras.ops.sparse_categorical_crossentropy(
        keras.ops.convert_to_tensor(np.array(y)),
        model({name: np.array(part) for name, part in x.items()}),
        from_logits=True,
    )
    stop = int(np.array(weights).sum())
    return keras.ops.convert_to_numpy(losses)[0][stop - counted : stop]


@pytest.fixture
def writer(small_writer):
    return randomize(small_writer(layers=1))


def test_perplexity_and_what_is_written(writer, tmp_path):
    data = ft.prompts(QUESTIONS, ANSWERS)
    report = ft.evaluate(
        writer,
        data,
        slices={"half": np.arange(8) // 4},
        metrics={"length": lambda true, written: [len(x) for x in written]},
        bootstrap=20,
        verbose=0,
    )
    pairs = zip(QUESTIONS, ANSWERS, [2, 2, 3, 2] * 2, strict=True)
    losses = [losses_by_hand(writer, f"{q} {a}", n) for q, a, n in pairs]
    losses = np.concatenate(losses).mean()
    found = report.metrics
    np.testing.assert_allclose(found["perplexity"], np.exp(losses), rtol=1e-4)
    written = report.predictions.y_pred
    right = [a == b for a, b in zip(ANSWERS, written, strict=True)]
    assert found["exact_match"] == np.mean(right)
    assert found["length"] == np.mean([len(text) for text in written])
    assert list(report.slices["half"]) == ["0", "1"]
    assert "ROUGE-L" in str(report) and "text_generation, 8 ex" in str(report)
    again = ft.Report.from_json(report.to_json(tmp_path / "report.json"))
    assert str(again) == str(report)
    assert again.predictions.y_pred.tolist() == written.tolist()
    assert ft.compare(report, again).better is None
    report.to_html(tmp_path / "report.html")


def test_long_texts_are_read_in_windows(small_writer):
    model = randomize(small_writer(length=8, layers=1))
    text = "is a b no yes a b no is b a yes"
    report = ft.evaluate(
        model, ft.prompts([text], stride=4), bootstrap=0, verbose=0
    )
    ids = [int(i) for i in model.preprocessor.tokenizer(text)]
    ids = np.array([*ids, model.preprocessor.tokenizer.end_token_id])
    ids = np.concatenate([ids[-1:], ids])
    losses = []
    for place in range(1, len(ids)):
        # The windows of 8 inputs begin at 0, 4 and where the last one fits.
        starts = [0, 4, len(ids) - 9]
        start = next(s for s in starts if place - 1 < s + 8)
        x = ids[None, start:place]
        out = model({"token_ids": x, "padding_mask": np.ones_like(x)})
        out = keras.ops.convert_to_numpy(keras.ops.log_softmax(out))
        losses.append(-out[0, -1, ids[place]])
    found = report.metrics["perplexity"]
    np.testing.assert_allclose(found, np.exp(np.mean(losses)), rtol=1e-4)
    assert list(report.metrics) == ["perplexity"]


def test_rouge_l():
    true = ["the cat sat on the mat", "a", "no", ""]
    written = ["The cat was on a mat.", "a", "yes", ""]
    # 4 of 6 words in order in both.
    np.testing.assert_allclose(rouge_l(true, written), [4 / 6, 1, 0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.5}, "does not apply"),
        ({"metrics": {"one": lambda a, b: [1, 2]}}, "a number for each"),
    ],
)
def test_what_is_not_for_texts_is_refused(writer, options, message):
    data = ft.prompts(QUESTIONS, ANSWERS)
    with pytest.raises(ValueError, match=message):
        ft.evaluate(writer, data, verbose=0, **options)


def test_other_data_and_models_are_refused(writer):
    x = {"token_ids": np.ones((2, 4)), "padding_mask": np.ones((2, 4))}
    with pytest.raises(ValueError, match="judged on texts"):
        ft.evaluate(writer, (x, np.ones((2, 4))), verbose=0)
    with pytest.raises(ValueError, match="metrics` judge what"):
        ft.evaluate(writer, (["a b"],), metrics={"n": len}, verbose=0)
    with pytest.raises(ValueError, match="nothing could be written"):
        ft.evaluate(writer, (["a " * 40], ["b"]), verbose=0)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="does not apply"):
        ft.evaluate(plain, (np.ones((2, 2)), np.ones(2)), metrics={"n": len})


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_writes(small_writer, tmp_path):
    writer = randomize(small_writer(length=8, layers=1))
    path = ft.save_bundle(writer, tmp_path / "writer.keras")
    bundle = ft.load_bundle(path)
    assert bundle.task == "text_generation"
    writer.compile(sampler="greedy")
    wanted = writer.generate(QUESTIONS[:2], strip_prompt=True)
    assert bundle.predict(QUESTIONS[:2]) == wanted


ELSEWHERE = """
import json, pathlib, sys
import keras, keras_hub, numpy as np
import finetune_keras as ft
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    tf.config.run_functions_eagerly(True)
folder, questions = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
bundles = [ft.load_bundle(path) for path in sorted(folder.glob("*.keras"))]
written = [bundle.predict(questions) for bundle in bundles]
preset = keras_hub.models.CausalLM.from_preset(str(folder / "preset"))
ft.load_adapters(preset, folder / "adapters.safetensors")
preset.compile(sampler="greedy")
written.append(preset.generate(questions, strip_prompt=True))
models = [*(bundle.model for bundle in bundles), preset]
x = {"token_ids": np.arange(6)[None], "padding_mask": np.ones((1, 6), int)}
logits = [keras.ops.convert_to_numpy(model(x)) for model in models]
np.savez(folder / "logits.npz", *logits)
print(json.dumps(written))
"""


@pytest.mark.filterwarnings("ignore")
def test_what_has_learnt_writes_the_same_in_a_fresh_process(
    small_writer, tmp_path
):
    """Also a Llama with a tied embedding, which KerasHub forgets."""
    x = {"token_ids": np.arange(6)[None], "padding_mask": np.ones((1, 6), int)}
    logits, written = [], []
    for kind in ("GPT2", "Llama3"):
        model = randomize(small_writer(kind, length=8, layers=1))
        if kind == "GPT2":
            model.save_to_preset(tmp_path / "preset")
        ft.add_adapters(model, ft.LoRA(rank=2))
        for layer in graph.all_layers(model):
            if layer.name.startswith("adapter_"):
                randomize(layer)
                layer.switch.assign(1.0)
        if kind == "GPT2":
            ft.save_adapters(model, tmp_path / "adapters.safetensors")
            adapted = keras.ops.convert_to_numpy(model(x))
        ft.merge_adapters(model)
        logits.append(keras.ops.convert_to_numpy(model(x)))
        model.compile(sampler="greedy")
        written.append(model.generate(QUESTIONS[:2], strip_prompt=True))
        ft.save_bundle(model, tmp_path / f"{kind}.keras")
        assert "get_config" not in vars(model.backbone)
    process = FreshProcess("-c", ELSEWHERE, tmp_path, json.dumps(QUESTIONS[:2]))
    assert process.wait() == 0, process.stderr
    told = json.loads(process.stdout.splitlines()[-1])
    assert told == [*written, written[0]]
    with np.load(tmp_path / "logits.npz") as found:
        for one, wanted in zip(found.values(), [*logits, adapted], strict=True):
            np.testing.assert_allclose(one, wanted, atol=1e-6)
