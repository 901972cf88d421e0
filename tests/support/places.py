"""Where tests find what they read: the repository, golden outputs, labelled answers, data sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"


def _first_folder(variable: str, *folders: Path) -> Path:
    """The folder that an environment variable names, else the first that is there, else the last."""
    if variable in os.environ:
        return Path(os.environ[variable])
    return next((folder for folder in folders if folder.is_dir()), folders[-1])


# The whole sets where they lie beside the repository, else the thinned ones inside it (tests/golden/thin.py).
GOLDEN = _first_folder("RLVR_GOLDEN_DIR", SHARED / "golden", TESTS / "golden" / "cases")
GRADING = _first_folder("RLVR_GRADING_DIR", SHARED / "grading", TESTS / "golden" / "grading")
# Published data sets are read where they lie and are no part of the repository.
DATA = _first_folder("RLVR_DATA_DIR", SHARED / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA} (RLVR_DATA_DIR)")
