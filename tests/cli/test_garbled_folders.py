"""Commands on folders in which a file was garbled: read as far as it goes, or refused in one line."""

from __future__ import annotations

from pathlib import Path

from support.garble import fuzz, fuzz_resumes

# `python tests/support/garble.py` asks 2,000 and resumes 100.
COMMANDS = 150
RESUMES = 12


def test_garbled_folders_cost_one_line(tmp_path: Path) -> None:
    outcomes = list(fuzz(tmp_path, COMMANDS, seed=1, audit=False))
    raised = [outcome for outcome in outcomes if outcome.status is None]
    assert not raised, "\n".join(f"{one.arguments} {one.garbled}\n{one.trace}" for one in raised)
    refused = [outcome for outcome in outcomes if outcome.status]
    assert 20 < len(refused) < COMMANDS
    for outcome in refused:
        assert outcome.message.count("\n") == 0, outcome
        assert outcome.message, outcome


def test_resumes_of_garbled_runs_cost_one_line(tmp_path: Path) -> None:
    outcomes = list(fuzz_resumes(tmp_path, RESUMES, seed=1))
    raised = [outcome for outcome in outcomes if outcome.status is None]
    assert not raised, "\n".join(f"{one.arguments} {one.garbled}\n{one.trace}" for one in raised)
    assert {outcome.status for outcome in outcomes} >= {0, 2}
