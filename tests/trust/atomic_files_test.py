"""Files are there whole or not at all, and no link is written through."""

import os

import keras
import numpy as np
import pytest

import finetune_keras as ft
from finetune_keras.data.atomic import open_lock, replacing, write_text
from finetune_keras.training.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def run():
    """A model, and the history of its run."""
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, name="body")(inputs)
    outputs = keras.layers.Dense(2, activation="softmax", name="head")(hidden)
    model = keras.Model(inputs, outputs, name="small")
    x = np.linspace(-1, 1, 24).reshape(8, 3).astype("float32")
    plan = ft.plans.linear_probe(epochs=1)
    history = ft.fine_tune(model, plan, (x, np.arange(8) % 2), verbose=0)
    report = ft.evaluate(model, (x, np.arange(8) % 2), verbose=0)
    return model, plan, history, report


def write_everything(folder, run):
    """Writes each kind of file that the package writes, by its name."""
    model, plan, history, report = run
    plan.save(folder / "plan.yaml")
    report.to_json(folder / "report.json")
    report.to_html(folder / "report.html")
    ft.save_record(folder, model, history, plan, reports={"test": report})
    ft.save_bundle(model, folder / "model.keras", classes=["a", "b"])
    checkpoint = Checkpoint(folder, {"plan": []})
    checkpoint.save({"a": np.ones(3)})
    checkpoint.close()
    adapted = keras.models.clone_model(model)
    ft.add_adapters(adapted, ft.LoRA(rank=1), "body")
    ft.save_adapters(adapted, folder / "law.safetensors")


def test_links_that_lie_in_the_folder_are_not_written_through(tmp_path, run):
    (tmp_path / "plain").mkdir()
    write_everything(tmp_path / "plain", run)
    names = sorted(os.listdir(tmp_path / "plain"))
    assert "history.png" in names and "state.npz" in names
    folder = tmp_path / "linked"
    folder.mkdir()
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    for name in set(names) - {"run.lock"}:
        for suffix in ("", ".new"):
            (folder / f"{name}{suffix}").symlink_to(precious)
    write_everything(folder, run)
    assert precious.read_text() == "mine"
    for name in names:
        assert not (folder / name).is_symlink(), name


def test_a_link_in_place_of_a_lock_is_refused_and_told(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    (tmp_path / "run.lock").symlink_to(precious)
    with pytest.raises(ValueError, match="symbolic link.*remove it"):
        Checkpoint(tmp_path, {})
    assert precious.read_text() == "mine"


def test_a_lock_keeps_what_its_file_holds(tmp_path):
    (tmp_path / "run.lock").write_text("another's")
    open_lock(tmp_path / "run.lock").close()
    assert (tmp_path / "run.lock").read_text() == "another's"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "record.json"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_the_new_file_has_a_name_that_nobody_foresees(tmp_path):
    seen = set()
    for _ in range(3):
        with replacing(tmp_path / "model.keras") as file:
            assert os.path.dirname(file.name) == str(tmp_path)
            assert file.name.endswith(".keras")
            seen.add(file.name)
    assert len(seen) == 3


def test_a_file_has_the_rights_that_the_user_gives_to_new_ones(tmp_path):
    (tmp_path / "plain").write_text("a")
    write_text(tmp_path / "ours", "a")
    modes = [os.stat(tmp_path / name).st_mode for name in ("plain", "ours")]
    assert modes[0] == modes[1]


def test_long_names_can_be_written(tmp_path):
    name = "é" * 120 + ".json"
    write_text(tmp_path / name, "whole")
    assert (tmp_path / name).read_text() == "whole"


def test_what_a_kill_left_of_a_state_is_removed(tmp_path):
    left = tmp_path / "state.0123456789abcdef.new.npz"
    left.write_bytes(b"half")
    Checkpoint(tmp_path, {}).close()
    assert not left.exists()
