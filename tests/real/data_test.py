"""Real folders and files of texts."""

from finetune_keras.data.csv_files import from_csv
from finetune_keras.data.folders import image_folder


def test_photos(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_KERAS_CACHE", str(tmp_path))
    folder = shared_data / "hymenoptera-160"
    data = image_folder(folder, image_size=160, verbose=0)
    assert data.classes == ["ants", "bees"]
    assert data.counts["test"] == {"ants": 70, "bees": 83}
    assert data.sizes["train"] + data.sizes["validation"] == 244
    assert abs(data.sizes["validation"] - 0.15 * 244) < 1
    assert (data.bad_files, data.duplicates) == ([], [])
    seen = 0
    for x, y in data.validation:
        assert x.shape[1:] == (160, 160, 3) and len(x) == len(y)
        assert 0 <= float(x.numpy().min()) and 200 < float(x.numpy().max())
        seen += len(x)
    assert seen == data.sizes["validation"]


def test_texts(shared_data):
    folder = shared_data
    data = from_csv(folder / "sst2" / "train.tsv", "sentence", "label")
    assert sum(data.sizes.values()) == 6920
    assert data.task == "classification"
    data = from_csv(
        folder / "goemotions-ekman" / "train.tsv",
        "text",
        "labels",
        label_separator=",",
        quotes=False,
    )
    assert (data.task, len(data.classes)) == ("multi_label", 7)
    assert sum(data.sizes.values()) == 43410
