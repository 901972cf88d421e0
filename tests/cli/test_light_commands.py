"""Commands that need no model load neither torch nor transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_run import healthy

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "report": ["report", "demo"],
    "sweep --table": ["sweep", "one_shot_terms_small", "--table"],
    "select": ["select", "demo", "--method", "historical_variance", "--top", "2"],
    "grade": ["grade", "answers.jsonl"],
    "data": ["data", "arithmetic", "--count", "2"],
}
CODE = """
import sys
from rlvr.cli.main import main
status = main(sys.argv[1:])
print("heavy:", *({"torch", "transformers"} & sys.modules.keys()))
sys.exit(status)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    healthy(folder / "demo")
    (folder / "answers.jsonl").write_text('{"gold": "5", "prediction": "\\\\boxed{5}"}\n')
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_a_model_loads_no_torch(place: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *COMMANDS[name]],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == "heavy:"
