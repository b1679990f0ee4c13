import os
import socket
import subprocess
import sys
import time
import urllib.request

import keras
import numpy as np
import pytest

from finetune_keras.models import pretrained
from finetune_keras.models.pretrained import check_weights, load_weights


def make(filters=2):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(filters, 3, name="one"),
            keras.layers.Conv2D(2, 3, name="two"),
        ],
        name="small",
    )


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras"])
def test_weights_of_every_kind_of_file(tmp_path, ending):
    path = str(tmp_path / f"file{ending}")
    model = make()
    save = model.save_weights if "weights" in ending else model.save
    save(path)
    other = make()
    load_weights(other, check_weights(path))
    for old, new in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras"])
def test_weights_of_another_model(tmp_path, ending):
    path = str(tmp_path / f"file{ending}")
    model = make(filters=5)
    save = model.save_weights if "weights" in ending else model.save
    save(path)
    other = make()
    before = other.get_weights()
    with pytest.raises(ValueError, match="does not fit the backbone 'small'"):
        load_weights(other, path)
    try:
        load_weights(other, path)
    except ValueError as error:
        assert path in str(error)
        assert "(3, 3, 3, 5)" in str(error) and "(3, 3, 3, 2)" in str(error)
        assert len(str(error)) < 1000
    for old, new in zip(before, other.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_file_that_holds_no_weights(tmp_path):
    path = tmp_path / "page.h5"
    path.write_text("<html>")
    with pytest.raises(ValueError, match="page.h5"):
        load_weights(make(), str(path))


@pytest.mark.parametrize(
    "weights, said",
    [
        ("imagenet21k", "neither a known name nor such a file"),
        ("weights.txt", "neither a known name nor such a file"),
        ("absent.h5", "no such file"),
        (7, "weights=7"),
        (True, "weights=True"),
    ],
)
def test_weights_that_are_none(weights, said):
    with pytest.raises(ValueError, match=said):
        check_weights(weights)


def test_weights_as_they_should_be(tmp_path):
    assert check_weights(None) is None
    assert check_weights("imagenet") == "imagenet"
    path = tmp_path / "some.weights.h5"
    path.touch()
    assert check_weights(path) == str(path)


def fetch(folder, name="file.h5", url="https://models.invalid/file.h5"):
    """Stands for an application that downloads its weights."""

    def application(weights):
        return keras.utils.get_file(name, url, cache_dir=folder)

    return pretrained.build(application, "imagenet")


def silent_server(monkeypatch):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    return server


def hanging_name_server(monkeypatch):
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(30))
    return socket.socket()


@pytest.mark.parametrize("network", [silent_server, hanging_name_server])
def test_network_without_answer(tmp_path, monkeypatch, network):
    monkeypatch.setattr(pretrained, "ANSWER_SECONDS", 0.5)
    # One that is made already knows the proxies of then.
    monkeypatch.setattr(urllib.request, "_opener", None)
    start = time.monotonic()
    with network(monkeypatch):
        with pytest.raises(ValueError, match="no answer within 0.5") as caught:
            fetch(str(tmp_path), name="own_name.h5")
    assert time.monotonic() - start < 5
    assert "https://models.invalid/file.h5" in str(caught.value)
    # Where to put it, under the name that Keras will look for.
    assert f"Put it at {tmp_path}/datasets/own_name.h5" in str(caught.value)


def test_network_is_as_before_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    opener = urllib.request.build_opener()
    urllib.request.install_opener(opener)
    try:
        with pytest.raises(ValueError, match="refused"):
            fetch(str(tmp_path))
        assert urllib.request._opener is opener
    finally:
        urllib.request.install_opener(None)
    assert socket.getdefaulttimeout() is None


def test_download_that_succeeds(tmp_path):
    (tmp_path / "origin.h5").write_text("weights")
    url = (tmp_path / "origin.h5").as_uri()
    path = fetch(str(tmp_path), url=url)
    with open(path) as file:
        assert file.read() == "weights"


def test_file_of_a_similar_model_is_mentioned(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mobilenet_2_5_224_tf_no_top.h5").touch()
    with pytest.raises(ValueError, match="is mobilenet_2_5_224_tf_no_top.h5"):
        fetch(str(tmp_path), name="mobilenet_2_5_160_tf_no_top.h5")


def test_other_errors_of_an_application():
    def application(weights, alpha):
        raise ValueError("alpha is off")

    with pytest.raises(ValueError, match="alpha is off Received: .*'alpha': 3"):
        pretrained.build(application, None, alpha=3)
    with pytest.raises(TypeError, match="beta"):
        pretrained.build(application, None, beta=3)


CACHE = """
import sys
import time
from finetune_keras.models.backbones import backbone

def expect(*parts):
    start = time.monotonic()
    try:
        backbone("MobileNet", input_shape=(160, 160, 3), alpha=0.25)
    except ValueError as error:
        assert all(part in str(error) for part in parts), error
        assert time.monotonic() - start < 10
    else:
        raise AssertionError("no error")

name, folder = "mobilenet_2_5_160_tf_no_top.h5", sys.argv[1] + "/models"
url = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/"
expect(name, url + name, f"{folder}/{name}", "weights=PATH", "weights=None")
with open(f"{folder}/{name}", "w") as file:
    file.write("<html>")
expect(name, "damaged", "Delete it")
"""


def test_imagenet_weights_without_network(tmp_path):
    env = {
        **os.environ,
        "KERAS_HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-c", CACHE, str(tmp_path)]
    subprocess.run(command, check=True, env=env)
