"""A figure of what an augmentation does."""

import textwrap

import keras
import numpy as np

from finetune_keras.arguments import check, integer
from finetune_keras.data.figure import as_label, new_figure
from finetune_keras.data.labels import as_text

_MOST_LINES = 8


def show_augmentation(layer, batch, columns=4):
    """Draws examples beside what an augmentation makes of them.

    Images are drawn as images, texts as a table, sequences of up to 8
    features as curves, longer ones and tables as heat maps. The original
    stands first in each row.

    Args:
        layer: A layer such as an `Augmentation`, called with `training=True`.
        batch: The originals: NumPy array or tensor of images `(batch, height,
            width, channels)` from 0 to 255, texts `(batch,)`, sequences
            `(batch, time, features)` or rows of a table `(batch, features)`. A
            few are enough: there is a row for each.
        columns: Positive integer, number of augmented variants. Defaults to
            `4`.

    Returns:
        A `matplotlib.figure.Figure`; a notebook shows it.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `batch` has another rank, or `columns` is not positive.

    Example:

    ```python
    import numpy as np
    import finetune_keras as ft

    pixels = np.random.randint(0, 256, (2, 32, 32, 3), "uint8")
    figure = ft.show_augmentation(ft.image_augmentation("strong"), pixels)
    figure.savefig("augmentation.png")
    ```
    """
    check(columns=(columns, integer(1)))
    original = _array(batch)
    if original.dtype.kind in "OSU":
        return _table(_variants(layer, original.reshape(-1), columns))
    draw = _drawing(original)
    variants = _variants(layer, original, columns)
    return _grid(variants, draw)


def _variants(layer, original, columns):
    augmented = [_array(layer(original, training=True)) for _ in range(columns)]
    return [original, *augmented]


def _array(batch):
    if isinstance(batch, (np.ndarray, list, tuple)):
        return np.asarray(batch)
    if hasattr(batch, "numpy") and str(batch.dtype).endswith("string'>"):
        return np.asarray(batch.numpy())
    return keras.ops.convert_to_numpy(batch)


def _drawing(batch):
    """Chooses how to draw an example by its rank."""
    if batch.size and batch.ndim == 4:
        return _draw_image
    if batch.size and batch.ndim == 3:
        return _draw_curves if batch.shape[-1] <= _MOST_LINES else _draw_map
    if batch.size and batch.ndim == 2:
        return _draw_row
    raise ValueError(
        "`batch` must hold examples: images (batch, height, width, channels), "
        "texts (batch,), sequences (batch, time, features) or rows (batch, "
        f"features). Received: batch of shape {batch.shape}"
    )


def _grid(variants, draw):
    rows, columns = len(variants[0]), len(variants)
    figure = new_figure(2 * columns, 1.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row in range(rows):
        examples = [variant[row] for variant in variants]
        for axes, example in zip(grid[row], examples, strict=True):
            draw(axes, example.astype("float32"), examples[0])
    _name_columns(grid[0])
    return figure


def _name_columns(row):
    row[0].set_title("original", fontsize=9)
    for number, axes in enumerate(row[1:], start=1):
        axes.set_title(f"augmented {number}", fontsize=9)


def _draw_image(axes, image, original):
    channels_first = image.shape[-1] not in (1, 3, 4)
    if channels_first and image.shape[0] in (1, 3, 4):
        image = np.moveaxis(image, 0, -1)
    if image.shape[-1] not in (3, 4):
        image = image[..., :1]
    axes.imshow(np.clip(image / 255, 0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()


def _draw_curves(axes, sequence, original):
    axes.plot(sequence, linewidth=0.8)
    axes.tick_params(labelsize=6)


def _draw_map(axes, sequence, original):
    low, high = np.min(original), np.max(original)
    axes.imshow(sequence.T, aspect="auto", origin="lower", vmin=low, vmax=high)
    axes.tick_params(labelsize=6)


def _draw_row(axes, row, original):
    places = np.arange(len(row))
    axes.bar(places, original, color="0.85", width=0.9)
    axes.bar(places, row, width=0.5)
    axes.tick_params(labelsize=6)


def _table(variants):
    width = max(16, 100 // len(variants))
    cells = [
        [textwrap.fill(as_label(as_text(x)), width) for x in texts]
        for texts in zip(*variants, strict=True)
    ]
    lines = [max(cell.count("\n") + 1 for cell in row) for row in cells]
    figure = new_figure(14, 0.5 + 0.22 * sum(lines))
    axes = figure.add_subplot()
    axes.set_axis_off()
    names = [f"augmented {i}" for i in range(1, len(variants))]
    table = axes.table(
        cells, colLabels=["original", *names], cellLoc="left", loc="center"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for (row, _), cell in table.get_celld().items():
        share = lines[row - 1] if row else 1
        cell.set_height(share / (sum(lines) + 1))
    return figure
