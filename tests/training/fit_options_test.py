import keras
import numpy as np
import pytest

from finetune_keras.training.fit_options import check_fit

X, Y, W = np.ones((4, 2)), np.array([0, 1, 0, 1]), np.ones(4)


def test_arguments_of_fit_go_through():
    fit = {
        "batch_size": np.int64(2),
        "class_weight": {0: 1.0, 1: 2.0},
        "mode": "max",
        "monitor": "val_accuracy",
        "shuffle": False,
        "steps_per_epoch": None,
        "stop_after": 3,
        "validation_batch_size": 4,
        "validation_freq": 2,
        "validation_steps": 1,
        "verbose": "auto",
    }
    train, checked = check_fit(fit, (X, Y), (X, Y))
    assert train == (X, Y)
    assert checked == {**fit, "callbacks": []}


def test_a_callback_alone_is_put_in_a_list():
    callback = keras.callbacks.TerminateOnNaN()
    assert check_fit({"callbacks": callback}, (X, Y))[1]["callbacks"] == [
        callback
    ]
    assert check_fit({"callbacks": (callback,)}, (X, Y))[1]["callbacks"] == [
        callback
    ]


def test_weights_go_to_the_arrays():
    for data in ((X, Y), [X, Y, None]):
        train, fit = check_fit({"sample_weight": W}, data)
        assert len(train) == 3 and train[2] is W
        assert "sample_weight" not in fit
    data = (X, Y, W)
    assert check_fit({"sample_weight": None}, data)[0] is data


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return X, Y


@pytest.mark.parametrize(
    "fit, train, message",
    [
        ({"stop_after": 0}, (X, Y), "integer of at least 1.*stop_after=0"),
        ({"stop_after": 1.5}, (X, Y), "stop_after=1.5"),
        ({"batch_size": True}, (X, Y), "batch_size=True"),
        ({"monitor": 3}, (X, Y), "name of a metric"),
        ({"callbacks": ["EarlyStopping"]}, (X, Y), "EarlyStopping"),
        ({"sample_weight": W}, (X, Y, W), "only once"),
        ({"sample_weight": W}, Batches(), "type Batches"),
        ({"class_weight": {0: 1}}, (X, Y, W), "exclude each other"),
    ],
)
def test_what_is_refused(fit, train, message):
    with pytest.raises(ValueError, match=message):
        check_fit(fit, train)


def test_a_dataset_without_an_end_needs_steps():
    tf = pytest.importorskip("tensorflow")
    finite = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
    endless = finite.repeat()
    with pytest.raises(ValueError, match="`train` never.*`steps_per_epoch`"):
        check_fit({}, endless, finite)
    with pytest.raises(ValueError, match="`validation_steps`"):
        check_fit({}, finite, endless)
    fit = {"steps_per_epoch": 2, "validation_steps": 1}
    assert check_fit(fit, endless, endless)[0] is endless


class Endless(Batches):
    num_batches = None


def test_batches_that_may_not_end_need_steps():
    iterable = type("Iterable", (), {"__iter__": lambda self: iter([(X, Y)])})
    for data in (Endless(), iterable()):
        with pytest.raises(ValueError, match="`train` never.*or may not"):
            check_fit({}, data)
        assert check_fit({"steps_per_epoch": 2}, data)[0] is data
