"""Folders of images, and a cache of their own."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What is remembered of files does not leave the test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FINETUNE_KERAS_CACHE", str(folder))
    return folder
