"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model (see tiny.py)."""
    from support import tiny

    return tiny.save(tmp_path_factory.mktemp("models") / "tiny")
