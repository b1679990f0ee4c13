"""Judges a model on data: metrics, intervals, slices, worst errors."""

import functools
import numbers

import numpy as np

from finetune_keras.arguments import check, check_model, integer, maybe, one_of
from finetune_keras.data.labels import as_text, check_classes
from finetune_keras.data.outputs import writes_text
from finetune_keras.data.source import Source
from finetune_keras.data.task import Task
from finetune_keras.results import bootstrap as resampling
from finetune_keras.results.calibration import find_calibration
from finetune_keras.results.collect import collect
from finetune_keras.results.coverage import coverage_of
from finetune_keras.results.each_output import by_output, judges_each
from finetune_keras.results.metrics import (
    confusion,
    score,
    score_each_class,
)
from finetune_keras.results.notes import notes_of
from finetune_keras.results.report import Report
from finetune_keras.results.written import read_written
from finetune_keras.text.prompt_tokens import as_prompts
from finetune_keras.training.data_checks import check_batched, check_boxes_fit

_MOST_VALUES = 100


def evaluate(
    model,
    data,
    classes=None,
    slices=None,
    bootstrap=1000,
    seed=0,
    task=None,
    from_logits=None,
    threshold=None,
    worst=50,
    batch_size=32,
    steps=None,
    verbose=1,
    metrics=None,
):
    """Judges a model on data that it has not seen.

    The data are read once. Labels, inputs and predictions come from the same
    batches, so the data may be shuffled. The model need not be compiled.

    The task is told from the compiled loss, else from the activation of the
    output, else from the values of the first batch. Outputs are logits if they
    come from no softmax or sigmoid and the loss says `from_logits=True`, or if
    they leave [0, 1] or, for one class among several, do not sum to one.

    A detector of KerasHub is judged by the mean average precision of its
    boxes, as pycocotools computes it, on data as `box_folder` makes them.

    A `text_embedder` or `image_embedder` is judged by a search: of `pairs`
    from each anchor among all positives and negatives, with labels from each
    input among the others for those of its label. Each query is an example,
    and `metrics` are recall, the mean reciprocal rank and nDCG. Of a
    `multiple_choice` the classes are the places of the choices.

    A model with several outputs is judged output by output. Its labels are a
    dict by their names, or a list in their order, and `classes`, `task`,
    `from_logits` and `threshold` are dicts by these names, or for all alike.

    A `CausalLM` of KerasHub is judged on texts: by the perplexity of answers,
    or of plain texts, and by what it writes after each question, the likeliest
    token each time: `exact_match`, `rouge_l`, the F1 of the longest common
    subsequence of words (if it hears `word_error_rate`, the words to put in,
    leave out or change for each that was said), and `metrics` of your own. Of
    the other arguments those of classes and of steps do not apply.

    Args:
        model: A `keras.Model` with outputs of shape (batch,) or (batch,
            classes), or of masks, (batch, height, width, classes), or a
            detector or a `CausalLM` of KerasHub.
        data: Batched `tf.data.Dataset`, tuple of arrays `(x, y)` or `(x, y,
            sample_weight)`, or `keras.utils.PyDataset`. Labels are class ids
            from 0, names of `classes`, or one-hot; multi-hot for several
            labels an example; numbers for a regression; masks of class ids,
            one-hot or not. Or `pairs`. With sample weights, of masks by pixel
            too, all metrics and intervals are weighted; counts are not.
        classes: List of strings, names in the order of the outputs. Defaults
            to `None`: the `class_names` of the dataset, those that a text
            model was made with, or numbers.
        slices: Dict from the name of a column to an array with one value for
            each example, in the order of `data`. Defaults to `None`.
        bootstrap: Integer, number of resamples for the 95 % intervals; 0
            leaves them out. Defaults to `1000`.
        seed: Integer, of the resamples. Defaults to `0`.
        task: `"classification"`, `"multi_label"`, `"regression"` or
            `"segmentation"`. Defaults to `None`, which infers it.
        from_logits: Boolean. Defaults to `None`, which infers it.
        threshold: Float in [0, 1), the probability above which a label, or
            the second of two classes, is predicted; a list gives each label
            its own; of a detector, the least score of a box, which decides on
            the worst pictures and not on the metrics. Defaults to `None`:
            that of a calibrated model or of a detector, else 0.5.
        worst: Integer, number of examples with the highest loss whose inputs
            are kept. Defaults to `50`.
        batch_size: Integer, batch size of arrays. Defaults to `32`.
        steps: Integer, the most batches to read; a generator, and whatever
            else may never end, needs it. Defaults to `None`.
        verbose: 0 or 1, whether progress is shown. Defaults to `1`.
        metrics: Dict from names to functions of two lists of strings, the true
            answers and what was written, that return a number for each, or one
            for all. For models that write. Defaults to `None`.

    Returns:
        A `Report`, or a dict of them by the names of several outputs.

    Raises:
        ValueError: If the data are empty, endless or without labels, if labels
            and outputs do not fit each other, or if an option is out of
            range.

    Example:

    ```python
    import keras, numpy as np
    import finetune_keras as ft

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    x = np.eye(3)[y] + rng.normal(0, 0.5, (60, 3))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax()])
    report = ft.evaluate(model, (x, y), classes=["cat", "dog", "fox"],
                         slices={"site": np.arange(60) % 2}, verbose=0)
    print(report)
    print(report.metrics["accuracy"], report.intervals["accuracy"])
    ```

    Reference:

    - [Guo et al., 2017](https://arxiv.org/abs/1706.04599), calibration error
    - [Lin et al., 2014](https://arxiv.org/abs/1405.0312), average precision
    """
    check_model(model)
    if judges_each(model):
        _refuse_told({"metrics": metrics})
        each = functools.partial(
            evaluate,
            slices=slices,
            bootstrap=bootstrap,
            seed=seed,
            worst=worst,
            batch_size=batch_size,
            steps=steps,
            verbose=verbose,
        )
        told = {"classes": classes, "task": task, "from_logits": from_logits}
        return by_output(each, model, data, {**told, "threshold": threshold})
    _check_told(task, from_logits)
    check(
        bootstrap=(bootstrap, integer(0)),
        seed=(seed, integer(0)),
        worst=(worst, integer(0)),
        batch_size=(batch_size, integer(1)),
        steps=(steps, maybe(integer(1))),
    )
    tuned = _tuned_threshold(model) if threshold is None else None
    if writes_text(model):
        told = {"classes": classes, "task": task, "from_logits": from_logits}
        _refuse_told({**told, "threshold": threshold, "steps": steps})
        columns = _columns(slices, as_prompts(data))
        predictions, worst = read_written(
            model, data, metrics, worst, batch_size
        )
    else:
        _refuse_told({"metrics": metrics})
        columns = _columns(slices, data)
        check_batched(data, model, "data")
        check_boxes_fit(model, data, "data")
        told = task, _class_names(classes, data, model), from_logits
        cut = tuned or threshold
        predictions, worst = collect(
            model, data, told, cut, worst, batch_size, steps, verbose
        )
    _check_threshold(predictions)
    _check_lengths(columns, len(predictions))
    results = judge(predictions, bootstrap, seed)
    results["slices"] = {
        name: _slice(predictions, column, name, bootstrap, seed)
        for name, column in columns.items()
    }
    if tuned is not None:
        results["notes"].append("The thresholds are those of the calibration.")
    results["names"] = _names(data, len(predictions))
    layer = find_calibration(model)
    results["coverage"] = coverage_of(predictions, layer, results["names"])
    results["settings"] = {"bootstrap": bootstrap, "seed": seed}
    results["calibration"] = _calibration(model)
    results["model"] = str(getattr(model, "name", type(model).__name__))
    return Report(predictions, results, worst)


def judge(predictions, bootstrap, seed):
    """Computes all tables of a report but the slices."""
    results = {
        **_measure(predictions, bootstrap, seed),
        "per_class": score_each_class(predictions),
        "confusion": confusion(predictions),
    }
    results["notes"] = notes_of(predictions, results)
    return results


def _measure(predictions, bootstrap, seed):
    scores, drawn = score(predictions), {}
    if bootstrap:
        drawn = resampling.intervals(predictions, bootstrap, seed)
        for name, value in scores.items():
            drawn[name] = None if value is None else drawn[name]
    return {"metrics": scores, "intervals": drawn}


def _check_told(task, from_logits):
    if task is not None:
        Task.named(task)
    check(from_logits=(from_logits, one_of(None, True, False)))


def _refuse_told(given):
    """Refuses arguments that are for models of another kind."""
    told = [name for name, value in given.items() if value is not None]
    if told:
        raise ValueError(
            f"`{told[0]}` does not apply to this model: `metrics` are for "
            "models that write text, and classes, thresholds and steps for all "
            f"others. Received: {told[0]}={given[told[0]]!r}"
        )


def _check_threshold(predictions):
    threshold, count = predictions.threshold, len(predictions.classes)
    if threshold is None:
        return
    several = predictions.task == "multi_label"
    if not predictions.task.takes_threshold:
        raise ValueError(
            "`threshold` decides on two classes or on labels. Of more "
            "classes the most probable is predicted. Received: "
            f"threshold={threshold!r} for {predictions.task} with {count}"
        )
    values = np.asarray(threshold, "float64")
    shapes = [(), (count,)] if several else [()]
    if values.shape not in shapes or not ((values >= 0) & (values < 1)).all():
        raise ValueError(
            "`threshold` must be a probability of at least 0 and less than 1, "
            f"or for several labels a list of {count}. "
            f"Received: threshold={threshold!r}"
        )


def _class_names(classes, data, model):
    names = getattr(data, "class_names", None) if classes is None else classes
    if names is None:
        task = Task.of(model)
        names = task and task.classes
    return None if names is None else check_classes(names)


def _names(data, count):
    """What the examples are called, in their order, or `None`."""
    if Source.of(data).is_shuffled:
        return None
    # The second is of `keras.utils.image_dataset_from_directory`.
    names = getattr(data, "names", None) or getattr(data, "file_paths", None)
    if not isinstance(names, list) or len(names) < count:
        return None
    return names if isinstance(names[0], str) else None


def _columns(slices, data):
    if not slices:
        return {}
    if not hasattr(slices, "items"):
        raise ValueError(
            "`slices` must be a dict from the name of a column to an array "
            f"with one value for each example. Received: slices={slices!r}"
        )
    if Source.of(data).is_shuffled:
        raise ValueError(
            "`slices` are given in the order of the data, and `data` is a "
            "dataset that shuffles. Build it with `shuffle=False`. "
            f"Received: slices of {list(slices)}"
        )
    return {str(name): np.asarray(column) for name, column in slices.items()}


def _check_lengths(columns, size):
    for name, column in columns.items():
        if column.shape != (size,):
            raise ValueError(
                f"Column {name!r} of `slices` must hold one value for each of "
                f"the {size} examples. Received: shape {column.shape}"
            )


def _slice(predictions, column, name, bootstrap, seed):
    values = [_value_name(value) for value in column]
    order = {values[i]: column[i] for i in reversed(range(len(values)))}
    if len(order) > _MOST_VALUES:
        raise ValueError(
            f"Column {name!r} of `slices` has {len(order)} values. At most "
            f"{_MOST_VALUES} make a table: leave it out, group the values, or "
            "cut numbers into ranges with `np.digitize`. "
            f"Received: such as {list(order)[:3]}"
        )
    table, values = {}, np.array(values)
    for value in sorted(order, key=lambda key: _sort_key(order[key])):
        part = predictions.take(values == value)
        table[value] = {"n": len(part), **_measure(part, bootstrap, seed)}
    return table


def _value_name(value):
    # NaN is the one value that differs from itself.
    missing = value is None or (isinstance(value, float) and value != value)
    return "missing" if missing else as_text(value)


def _sort_key(value):
    if _value_name(value) == "missing":
        return 2, 0, ""
    if isinstance(value, (numbers.Real, np.bool_)):
        return 0, float(value), ""
    return 1, 0, as_text(value)


def _calibration(model):
    facts = getattr(find_calibration(model), "facts", None)
    if not facts:
        return None
    plain = (int, float, str, bool, type(None))
    return {
        str(key): value if isinstance(value, plain) else str(value)
        for key, value in dict(facts).items()
    }


def _tuned_threshold(model):
    """Thresholds that a calibration found: a list, or one float, or `None`."""
    found = getattr(find_calibration(model), "thresholds", None)
    return found[0] if found and len(found) == 1 else found
