import numpy as np
import pytest

from finetune_keras.data.augmentation_figure import show_augmentation
from finetune_keras.data.image_augmentation import image_augmentation
from finetune_keras.data.sequence_augmentation import sequence_augmentation
from finetune_keras.data.table_augmentation import table_augmentation
from finetune_keras.text.text_augmentation import text_augmentation

rng = np.random.default_rng(0)
CASES = [
    (image_augmentation, rng.integers(0, 256, (2, 16, 16, 3)).astype("uint8")),
    (image_augmentation, rng.uniform(0, 255, (2, 16, 16, 1)).astype("float32")),
    (sequence_augmentation, rng.normal(size=(2, 30, 3)).astype("float32")),
    (sequence_augmentation, rng.normal(size=(2, 30, 20)).astype("float32")),
    (table_augmentation, rng.normal(size=(3, 5)).astype("float32")),
]


@pytest.mark.parametrize("make, batch", CASES)
def test_originals_stand_beside_what_becomes_of_them(make, batch, tmp_path):
    pytest.importorskip("matplotlib", reason="needs finetune_keras[plots]")
    figure = show_augmentation(make("strong", seed=0), batch, columns=3)
    assert len(figure.axes) == len(batch) * 4
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles == ["original", "augmented 1", "augmented 2", "augmented 3"]
    figure.savefig(tmp_path / "figure.png")


def test_texts_stand_in_a_table(tmp_path):
    pytest.importorskip("matplotlib", reason="needs finetune_keras[plots]")
    texts = np.array(["costs $5 and $6, a bargain", "", "long " * 60])
    figure = show_augmentation(text_augmentation("strong", seed=0), texts)
    (table,) = figure.axes[0].tables
    assert len(table.get_celld()) == 4 * 5
    figure.savefig(tmp_path / "figure.png")


def test_bad_arguments():
    layer = image_augmentation()
    with pytest.raises(ValueError, match="columns"):
        show_augmentation(layer, CASES[0][1], columns=0)
    with pytest.raises(ValueError, match="must hold examples"):
        show_augmentation(layer, np.zeros(()))
