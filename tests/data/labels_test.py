import numpy as np
import pandas as pd
import pytest

from finetune_keras.data.labels import split_labels
from finetune_keras.data.targets import encode


@pytest.mark.parametrize(
    ("labels", "task", "classes", "y"),
    [
        (["b", "a", "b"], "classification", ["a", "b"], [1, 0, 1]),
        ([7, 10, 9, 7], "classification", ["7", "9", "10"], [0, 2, 1, 0]),
        ([True, False], "classification", ["False", "True"], [1, 0]),
        (pd.Categorical(["x", "y"]), "classification", ["x", "y"], [0, 1]),
        ([0.5, 2.0], "regression", None, [0.5, 2.0]),
        ([[0.5, 2.0], [1, 2]], "regression", None, [[0.5, 2.0], [1, 2]]),
        ([["b"], [], ["a", "b"]], "multi_label", ["a", "b"]
         , [[0, 1], [0, 0], [1, 1]]),
        ([(3, 5), (5, 1)], "multi_label", ["1", "3", "5"]
         , [[0, 1, 1], [1, 0, 1]]),
        ([[1, 0, 1], [0, 0, 1]], "multi_label", ["0", "1", "2"]
         , [[1, 0, 1], [0, 0, 1]]),
    ],
)  # fmt: skip
def test_the_task_is_found(labels, task, classes, y):
    targets = encode(labels)
    assert (targets.task, targets.task.classes) == (task, classes)
    np.testing.assert_array_equal(targets.y, np.array(y, targets.y.dtype))
    kind = {"classification": "int32"}.get(task, "float32")
    assert targets.y.dtype == kind


def test_the_task_can_be_said():
    many = np.arange(30)
    with pytest.raises(ValueError, match="classes or amounts"):
        encode(many)
    assert encode(many, "regression").y.dtype == np.float32
    assert len(encode(many, "classification").task.classes) == 30
    one_hot = np.eye(3)[[2, 0, 1]]
    assert encode(one_hot, "classification").y.tolist() == [2, 0, 1]
    assert encode([1.0, 2.0], "classification").task.classes == ["1.0", "2.0"]


def test_names_of_classes():
    names = ["cat", "dog"]
    assert encode([0, 1, 0], classes=names).task.classes == names
    ordered = encode(["b", "a"], classes=["b", "a", "never"])
    assert ordered.y.tolist() == [0, 1] and len(ordered.task.classes) == 3
    with pytest.raises(ValueError, match="labels 0 to 1"):
        encode([0, 2], classes=["cat", "dog"])
    with pytest.raises(ValueError, match="does not name: ..c"):
        encode(["c", "a"], classes=["a", "b"])
    with pytest.raises(ValueError, match="different strings"):
        encode(["a"], classes=["a", "a"])
    with pytest.raises(ValueError, match="no classes"):
        encode([0.1], classes=["a"])


@pytest.mark.parametrize(
    "labels",
    [
        ["a", None, "b"],
        ["a", "", "b"],
        [1.0, float("nan")],
        pd.Series(["a", None], dtype="string"),
        pd.Series([1, None], dtype="Int64"),
        [[1.0, 2.0], [float("inf"), 3.0]],
    ],
)
def test_missing_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"missing labels at \[1\]"):
        encode(labels)


def test_separated_labels():
    rows = split_labels(["a, b", "", "c", 4], ",")
    assert rows == [["a", "b"], [], ["c"], ["4"]]


def test_wrong_tasks():
    with pytest.raises(ValueError, match="one of"):
        encode([1], "binary")
    with pytest.raises(ValueError, match="must be numbers"):
        encode(["a", "b"], "regression")
    with pytest.raises(ValueError, match="one-hot"):
        encode([[1, 1], [0, 1]], "classification")
