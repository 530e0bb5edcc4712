"""Tests of data never reach the network; those that need the published files say so."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """An empty cache, no data folder, no network."""
    monkeypatch.delenv("FUXIAN_DATA", raising=False)
    monkeypatch.delenv("FUXIAN_MIRROR", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("FUXIAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FUXIAN_OFFLINE", "1")
    monkeypatch.setenv("NO_PROXY", "*")


PUBLISHED = os.environ.get("FUXIAN_DATA", "")


@pytest.fixture
def published(monkeypatch) -> Path:
    """The folder of published data sets that FUXIAN_DATA named when the tests began."""
    if not PUBLISHED:
        pytest.skip("FUXIAN_DATA is not set: the published files are not at hand")
    monkeypatch.setenv("FUXIAN_DATA", PUBLISHED)
    return Path(PUBLISHED)
