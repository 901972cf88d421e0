"""Where a model lies: a misspelt folder is no id of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.errors import UserError
from rlvr.models.locating import locate


def test_a_misspelt_folder_is_said_to_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text("{}")
    assert locate("models/tiny") == "models/tiny"
    for name in ("models/tinny", "models/tyny"):
        with pytest.raises(UserError) as refusal:
            locate(name)
        wanted = f"model.name: there is no folder '{name}' (did you mean 'models/tiny'?)"
        assert str(refusal.value) == wanted


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "models/SmolLM2-135M", "models/Small-2"])
def test_an_id_of_the_hub_is_asked_for_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "Small-1").mkdir()
    assert locate(name) == name
