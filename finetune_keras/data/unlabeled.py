"""Examples without labels, and data that has some of them to train on."""

import os

import numpy as np

from finetune_keras.data.arrays import as_features, digests
from finetune_keras.data.datasets import DataSplits
from finetune_keras.data.examples import Examples
from finetune_keras.data.pipeline import FileStore, make_dataset
from finetune_keras.data.splits import NAMES
from finetune_keras.data.walk import list_folder


class Unlabeled:
    """Examples without labels, of the kind that some data has.

    Copies of one another, and of what the data has, are left out.

    Args:
        given: Path of a folder where `data` are files of images; otherwise an
            array, a list of texts, or a batched dataset of such.
        data: `DataSplits`.

    Attributes:
        dataset: Batched `tf.data.Dataset`, in order, with labels of 0.
    """

    def __init__(self, given, data):
        self.data = data
        if isinstance(data.made_of[0].x, dict):
            raise ValueError(
                "Rows without labels are not taken for a table with columns of "
                f"several kinds. Received: data with the columns {data.kinds}"
            )
        of_files = isinstance(data.made_of[0].x, FileStore)
        found = (_of_folder if of_files else _of_arrays)(given, data)
        known = set(data.made_of[0].digests)
        new = {d: i for i, d in reversed(list(enumerate(found.digests)))}
        places = sorted(i for d, i in new.items() if d not in known)
        if not places:
            raise ValueError(
                "`unlabeled` has nothing that `data` has not. Received: "
                f"{len(found.names)} examples, all of them copies"
            )
        self.examples = _chosen(found, places)
        count = len(places)
        labels, order = np.zeros(count, "int32"), np.arange(count)
        self.dataset = make_dataset(self.examples.x, labels, order, 32)

    def __len__(self):
        return len(self.examples.names)

    def joined(self, places, ids, note):
        """`DataSplits` with these examples to train on, of these classes."""
        data, more = self.data, _chosen(self.examples, places)
        examples, y, seed, options = data.made_of
        old, new = len(examples.names), len(places)
        given = np.full(old + new, "train", object)
        for name in NAMES:
            given[data.places[name]] = name
        columns = {
            name: _filled(column, more.columns.get(name), new)
            for name, column in examples.columns.items()
        }
        columns["guessed"] = np.arange(old + new) >= old
        names = np.array(data.classes, object)
        whole = Examples(
            x=_both(examples.x, more.x),
            names=[*examples.names, *more.names],
            labels=names[[*y, *ids]],
            digests=[*examples.digests, *more.digests],
            source=examples.source,
            kind=examples.kind,
            image_size=examples.image_size,
            columns=columns,
            given=given,
            groups=examples.groups and [*examples.groups, *[None] * new],
            bad_files=[*examples.bad_files, *self.examples.bad_files],
            sizes=[*examples.sizes, *more.sizes],
            notes=[*examples.notes, note],
            features=examples.features,
        )
        known = {"task": str(data.task), "classes": data.classes}
        nothing = {"validation": 0, "test": 0}
        return DataSplits(whole, nothing, seed, {**options, **known})


def _chosen(found, places):
    """Some of the examples."""
    x = found.x
    if isinstance(x, FileStore):
        x = x.of([x.paths[i] for i in places])
    else:
        x = x[places]
    return Examples(
        x,
        [found.names[i] for i in places],
        None,
        [found.digests[i] for i in places],
        found.source,
        columns={k: v[places] for k, v in found.columns.items()},
        sizes=[found.sizes[i] for i in places] if found.sizes else [],
        bad_files=found.bad_files,
    )


def _both(x, more):
    if isinstance(x, FileStore):
        return x.of([*x.paths, *more.paths])
    return np.concatenate([x, more])


def _filled(column, more, count):
    """A column with what is known of more examples, or `None`."""
    more = [None] * count if more is None else list(more)
    both = np.empty(len(column) + count, object)
    both[:] = [*column, *more]
    return both if count else column


# === Forms ===


def _of_folder(folder, data):
    if not isinstance(folder, (str, os.PathLike)) or not os.path.isdir(folder):
        raise ValueError(
            "`data` are files, so `unlabeled` must be a folder of such, "
            "with or without folders in it. Received: unlabeled="
            f"{folder if isinstance(folder, str) else type(folder)!r}"
        )
    files = list_folder(folder).files
    store = data.made_of[0].x
    checks = store.check(os.fspath(folder), files, verbose=0)
    good = [one for one in checks if not one.problem]
    paths = [os.path.join(folder, one.name) for one in good]
    return Examples(
        store.of(paths),
        paths,
        None,
        [one.digest for one in good],
        f"Folder {os.fspath(folder)!r}",
        columns={"path": np.array(paths, object)},
        sizes=[one.size for one in good],
        bad_files=[(one.name, one.problem) for one in checks if one.problem],
    )


def _of_arrays(given, data):
    if hasattr(given, "element_spec"):
        given = _of_dataset(given)
    x, known = as_features(given), data.made_of[0].x
    if x.shape[1:] != known.shape[1:] or (x.dtype == "O") != (
        known.dtype == "O"
    ):
        raise ValueError(
            "`unlabeled` must be examples as `data` has them, of shape "
            f"{known.shape[1:]} and {known.dtype}. Received: an array of shape "
            f"{x.shape} and {x.dtype}"
        )
    x = x.astype(known.dtype) if known.dtype.kind == "f" else x
    names = [f"unlabeled {i}" for i in range(len(x))]
    return Examples(x, names, None, digests(x), "Arrays")


def _of_dataset(dataset):
    if int(dataset.cardinality()) == -1:
        raise ValueError(
            "`unlabeled` never ends. Leave out `repeat()`, or bound it: "
            f"`dataset.take(100)`. Received: unlabeled={dataset!r}"
        )
    batches = [x[0] if isinstance(x, tuple) else x for x in dataset]
    return np.concatenate([np.atleast_1d(batch.numpy()) for batch in batches])
