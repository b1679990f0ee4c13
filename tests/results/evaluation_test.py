"""The whole way from a model and data to a report, on each backend."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops
from sklearn import metrics as sk

from finetune_keras.results.calibration import Calibration
from finetune_keras.results.evaluation import evaluate

RNG = np.random.default_rng(0)
COUNT = 50
Y = RNG.integers(0, 3, COUNT)
X = (np.eye(3)[Y] + RNG.normal(0, 0.6, (COUNT, 3))).astype("float32")
P = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
WEIGHT = RNG.uniform(0.5, 2, COUNT)


def softmax_model():
    return keras.Sequential([keras.Input((3,)), layers.Softmax()])


def run(model, data, **options):
    options = {"verbose": 0, "bootstrap": 20, **options}
    return evaluate(model, data, **options)


class Batches(keras.utils.PyDataset):
    """Batches of a PyDataset, with sample weights."""

    def __len__(self):
        return math.ceil(COUNT / 8)

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        return X[rows], Y[rows], WEIGHT[rows]


def tf_dataset(*arrays):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays)


@pytest.mark.backends
def test_arrays_datasets_and_generators_agree():
    model = softmax_model()
    arrays = run(model, (X, Y, WEIGHT))
    dataset = tf_dataset(X, Y, WEIGHT).batch(7)
    lists = run(model, (X.tolist(), Y.tolist(), WEIGHT.tolist()))
    tensors = map(ops.convert_to_tensor, (X, Y, WEIGHT))
    batches = run(model, dataset), run(model, Batches(workers=1))
    for other in (*batches, lists, run(model, tuple(tensors))):
        assert other.metrics == pytest.approx(arrays.metrics)
        assert other.intervals["ece"] == pytest.approx(arrays.intervals["ece"])
        np.testing.assert_array_equal(other.confusion, arrays.confusion)
    truth = sk.accuracy_score(Y, P.argmax(1), sample_weight=WEIGHT)
    assert arrays.metrics["accuracy"] == pytest.approx(truth)
    loss = sk.log_loss(Y, P, sample_weight=WEIGHT)
    assert arrays.metrics["log_loss"] == pytest.approx(loss, rel=1e-5)
    assert "weighted by sample" in arrays.notes[-1]


@pytest.mark.backends
@pytest.mark.parametrize("units", [1, 2])
def test_binary(units):
    last = layers.Dense(units, activation="sigmoid" if units == 1 else None)
    model = keras.Sequential([keras.Input((3,)), last])
    y = (Y > 0).astype("float32")
    report = run(model, (X, y), classes=["no", "yes"], from_logits=units == 2)
    z = X @ ops.convert_to_numpy(last.kernel)
    margin = z[:, 0] if units == 1 else z[:, 1] - z[:, 0]
    p = 1 / (1 + np.exp(-margin))
    found = report.metrics
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p))
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p), rel=1e-4)
    assert found["accuracy"] == pytest.approx(np.mean((p > 0.5) == y))
    truth = sk.recall_score(y, p > 0.5)
    assert report.per_class["yes"]["recall"] == pytest.approx(truth)


@pytest.mark.backends
def test_multi_label_and_regression():
    last = layers.Dense(4, activation="sigmoid")
    model = keras.Sequential([keras.Input((3,)), last])
    y = (RNG.random((COUNT, 4)) < 0.4).astype("float32")
    report = run(model, (X, y), threshold=[0.3, 0.5, 0.5, 0.6])
    p = 1 / (1 + np.exp(-X @ ops.convert_to_numpy(last.kernel)))
    chosen = p > [0.3, 0.5, 0.5, 0.6]
    truth = sk.f1_score(y, chosen, average="micro", zero_division=0)
    assert report.task == "multi_label" and report.confusion is None
    assert report.metrics["f1_micro"] == pytest.approx(truth)

    last = layers.Dense(1)
    model = keras.Sequential([keras.Input((3,)), last])
    report = run(model, (X, X.sum(axis=1)))
    z = X @ ops.convert_to_numpy(last.kernel)
    assert report.task == "regression"
    truth = sk.r2_score(X.sum(axis=1), z)
    assert report.metrics["r2"] == pytest.approx(truth, rel=1e-4)


@pytest.mark.backends
def test_worst_inputs_are_those_of_their_predictions_under_shuffling():
    dataset = tf_dataset(X, Y).shuffle(COUNT).batch(7)
    report = run(softmax_model(), dataset, worst=6)
    losses = -np.log(P[np.arange(COUNT), Y])
    truth = np.argsort(-losses)[:6]
    assert len(report.worst) == 6
    for row, entry in zip(truth, report.worst, strict=True):
        np.testing.assert_array_equal(entry["input"], X[row])
        assert entry["loss"] == pytest.approx(losses[row], rel=1e-4)
        assert entry["true"] == str(Y[row])
        assert entry["predicted"] == str(P[row].argmax())
        assert entry["probability"] == pytest.approx(P[row].max(), rel=1e-4)
        # The place in this pass, whose order is not that of the arrays.
        assert report.predictions.y_true[entry["index"]] == Y[row]
    np.testing.assert_array_equal(
        np.bincount(report.predictions.y_true), np.bincount(Y)
    )


def test_worst_inputs_are_copies_and_few():
    report = run(softmax_model(), (X, Y), worst=3)
    assert [entry["input"].base for entry in report.worst] == [None] * 3
    assert run(softmax_model(), (X, Y), worst=0).worst == []
    assert len(run(softmax_model(), (X, Y)).worst) == 50


def test_texts_and_dicts_as_inputs():
    vector = layers.TextVectorization(
        vocabulary=["good", "bad"], output_mode="multi_hot"
    )
    text = keras.Input((), dtype="string", name="text")
    age = keras.Input((1,), name="age")
    features = layers.Concatenate()([vector(text), age])
    last = layers.Dense(2, activation="softmax")
    model = keras.Model({"text": text, "age": age}, last(features))
    texts = np.array(["good", "bad é", "neither", "good bad"])
    x = {"text": texts, "age": np.arange(4.0)[:, None]}
    y = np.array(["down", "up", "up", "down"])
    reports = [
        run(model, (inputs, y), classes=["down", "up"])
        for inputs in (x, {**x, "text": texts.astype(object)})
    ]
    dataset = tf_dataset(x, y).batch(3)
    reports.append(run(model, dataset, classes=["down", "up"]))
    for report in reports:
        assert report.metrics == reports[0].metrics
        entry = report.worst[0]
        seen = str(texts[entry["index"]])
        assert entry["input"]["text"] in (seen, seen.encode())
        assert entry["input"]["age"] == entry["index"]
    frame = reports[0].predictions.keys
    for report in reports[1:]:
        np.testing.assert_array_equal(report.predictions.keys, frame)


def test_texts_in_a_list():
    vector = layers.TextVectorization(
        vocabulary=["good", "bad"], output_mode="multi_hot"
    )
    model = keras.Sequential(
        [keras.Input((), dtype="string"), vector, layers.Dense(1, "sigmoid")]
    )
    report = run(model, (["good", "bad", "so"], [1, 0, 1]), worst=1)
    assert report.worst[0]["input"] in ("good", "bad", "so")


def test_ragged_and_data_frame_inputs():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abc"))
    report = run(softmax_model(), (frame, pandas.Series(Y)))
    assert report.metrics == run(softmax_model(), (X, Y)).metrics


def test_slices_of_a_loader_that_shuffles_are_refused():
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(pairs, 8, shuffle=True)
    with pytest.raises(ValueError, match="dataset that shuffles"):
        run(softmax_model(), loader, slices={"site": Y})


def test_slices():
    site = np.array(["north", "south", None], object)[np.arange(COUNT) % 3]
    size = np.where(np.arange(COUNT) < 20, 10, 9).astype(float)
    report = run(softmax_model(), (X, Y), slices={"site": site, "size": size})
    assert list(report.slices["site"]) == ["north", "south", "missing"]
    assert list(report.slices["size"]) == ["9.0", "10.0"]
    right = P.argmax(1) == Y
    for i, row in enumerate(report.slices["site"].values()):
        part = np.arange(COUNT) % 3 == i
        assert row["n"] == part.sum()
        assert row["metrics"]["accuracy"] == pytest.approx(right[part].mean())
        alone = run(softmax_model(), (X[part], Y[part]))
        assert row["metrics"] == alone.metrics
        assert row["intervals"] == alone.intervals


def test_a_slice_with_one_class_alone():
    report = run(softmax_model(), (X, Y), slices={"label": Y})
    row = report.slices["label"]["1"]
    assert row["metrics"]["roc_auc"] is None
    assert row["intervals"]["roc_auc"] is None
    assert row["metrics"]["accuracy"] is not None
    assert report.notes == []


def test_a_missing_class_is_noted():
    keep = Y != 1
    report = run(softmax_model(), (X[keep], Y[keep]), classes=["a", "b", "c"])
    assert report.metrics["roc_auc"] is None
    assert report.notes == [
        "ROC-AUC and PR-AUC are undefined: no examples of 'b' in the data."
    ]
    keep = Y == 1
    report = run(softmax_model(), (X[keep], Y[keep]))
    assert "no examples of '0', '2'" in report.notes[0]
    assert "only examples of '1'" in report.notes[1]
    str(report)


def test_a_class_that_is_never_predicted_is_noted():
    away = X - np.array([0, 20, 0], "float32")
    (note,) = run(softmax_model(), (away, Y), classes=["a", "b", "c"]).notes
    assert f"Never predicted: 'b', true of {(Y == 1).sum()} of 50" in note
    labels = layers.Dense(2, "sigmoid")
    model = keras.Sequential([keras.Input((3,)), labels])
    labels.set_weights([np.zeros((3, 2)), np.array([-9, 9])])
    y = np.stack([Y == 0, Y == 1], axis=1).astype("float32")
    (note,) = run(model, (X, y), classes=["a", "b"]).notes
    assert f"Never predicted: 'a', true of {(Y == 0).sum()} of 50" in note


def test_names_of_classes_come_with_the_dataset():
    dataset = tf_dataset(X, Y).batch(8)
    dataset.class_names = ["a", "b", "c"]
    assert run(softmax_model(), dataset).classes == ["a", "b", "c"]


def test_facts_of_a_calibrated_model():
    assert run(softmax_model(), (X, Y)).calibration is None
    facts = {"temperature": 2.0, "ece_before": 0.1, "data": [1, 2]}
    last = Calibration(0.5, facts=facts)
    model = keras.Sequential([keras.Input((3,)), layers.Softmax(), last])
    report = run(model, (X, Y))
    assert report.calibration == {
        "temperature": 2.0,
        "ece_before": 0.1,
        "data": "[1, 2]",
    }
    assert "temperature 2, ece_before 0.1" in str(report)


@pytest.mark.parametrize("thresholds", [[0.2, 0.7, 0.5], [0.3]])
def test_thresholds_of_a_calibrated_model(thresholds):
    size = len(thresholds)
    dense = layers.Dense(size, "sigmoid")
    last = Calibration(1.0, None, "sigmoid", thresholds)
    model = keras.Sequential([keras.Input((3,)), dense, last])
    y = (RNG.random((COUNT, size)) < 0.4).astype("float32")
    report = run(model, (X, y))
    p = model.predict(X, verbose=0)
    chosen = report.predictions.y_pred.reshape(COUNT, size)
    np.testing.assert_array_equal(chosen, p > np.float32(thresholds))
    assert report.notes == ["The thresholds are those of the calibration."]
    report = run(model, (X, y), threshold=0.5)
    assert report.notes == [] and report.predictions.threshold == 0.5


def test_the_model_is_left_as_it_was():
    model = softmax_model()
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = run(model, (X, Y))
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    assert run(model, (X, Y)).metrics == before.metrics
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_progress(capsys):
    run(softmax_model(), (X, Y), verbose=1)
    assert "2/2" in capsys.readouterr().out
    run(softmax_model(), (X, Y), verbose=0)
    assert capsys.readouterr().out == ""


def no_labels():
    return tf_dataset(X).map(lambda x: x).batch(8)


@pytest.mark.parametrize(
    "data, message",
    [
        (lambda: (X[:0], Y[:0]), "not empty"),
        (lambda: (X, Y[:-1]), "of one length"),
        (lambda: (X,), "must hold labels"),
        (lambda: (X, None), "with labels"),
        (lambda: X, "must hold labels"),
        (no_labels, "must hold labels"),
        (lambda: tf_dataset(X, Y), "has single examples"),
        (lambda: tf_dataset(X, Y).take(0).batch(8), "is empty"),
        (lambda: tf_dataset(X, Y).batch(8).repeat(), "never ends"),
        (lambda: (X, Y + 1), "go from 1 to 3"),
        (lambda: (X, np.eye(4)[Y]), "do not fit the outputs"),
        (lambda: (X, Y, -WEIGHT), "none of them negative"),
        (lambda: (X, Y, WEIGHT[:, None] * [1, 1]), "none of them negative"),
        (lambda: (X, Y, 0 * WEIGHT), "All sample weights are zero"),
        (lambda: (np.nan * X, Y), "predicts NaN"),
        (lambda: "photos", "such as `data.test`"),
        (lambda: 3, "such as `data.test`"),
    ],
)
def test_bad_data(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(softmax_model(), data())
    assert "Received: " in str(caught.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "binary"}, 'Two classes are "classification"'),
        ({"from_logits": "yes"}, "from_logits='yes'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"bootstrap": -1}, "bootstrap=-1"),
        ({"worst": 1.5}, "worst=1.5"),
        ({"seed": None}, "seed=None"),
        ({"threshold": 0.5}, "Of more classes the most probable"),
        ({"classes": "abc"}, "a list of names"),
        ({"classes": ["a", "b"]}, "3 different names"),
        ({"slices": {"a": Y[1:]}}, r"Received: shape \(49,\)"),
        ({"slices": ["a"]}, "must be a dict"),
        ({"slices": {"a": np.arange(COUNT) / 7}}, None),
    ],
)
def test_bad_options(options, message):
    if message is None:
        x, y = np.concatenate([X] * 3), np.concatenate([Y] * 3)
        column = {"age": np.arange(len(y)) / 7}
        with pytest.raises(ValueError, match="`np.digitize`"):
            run(softmax_model(), (x, y), slices=column)
        return
    with pytest.raises(ValueError, match=message) as caught:
        run(softmax_model(), (X, Y), **options)
    assert "Received: " in str(caught.value)


def test_threshold_out_of_range():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, "sigmoid")])
    y = Y > 0
    assert run(model, (X, y), threshold=0.0).confusion[:, 0].sum() == 0
    for threshold in (1.0, -0.1, [0.5, 0.5]):
        with pytest.raises(ValueError, match="`threshold` must be"):
            run(model, (X, y), threshold=threshold)


def test_an_unknown_option():
    with pytest.raises(TypeError, match="treshold"):
        run(softmax_model(), (X, Y), treshold=0.5)


def test_slices_of_a_dataset_that_shuffles():
    dataset = tf_dataset(X, Y).shuffle(COUNT).batch(8)
    with pytest.raises(ValueError, match="`shuffle=False`"):
        run(softmax_model(), dataset, slices={"y": Y})


def test_a_model_with_two_outputs():
    x = keras.Input((3,))
    model = keras.Model(x, [layers.Softmax()(x), layers.ReLU()(x)])
    with pytest.raises(ValueError, match="dict by their names"):
        run(model, (X, Y))
