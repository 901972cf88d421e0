"""Fixtures that several tests share, and how tests are spread over workers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Seconds of the slow tests, as `make test ARGS=--record-seconds` wrote them: the longest begin first, since the last
# worker to end decides how long all take.
SECONDS = Path(__file__).parent / "support" / "seconds.json"
WORTH_KNOWING = 1.0


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model (see support/tiny.py)."""
    from support import tiny

    return tiny.save(tmp_path_factory.mktemp("models") / "tiny")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-seconds",
        action="store_true",
        help=f"write the seconds of slow tests to {SECONDS.name}",
    )


def shared_fixtures(item: pytest.Item) -> list[str]:
    """The fixtures of a test that all tests of its file share, and that one worker should make once."""
    info = getattr(item, "_fixtureinfo", None)
    definitions = info.name2fixturedefs if info else {}
    return [name for name, found in definitions.items() if found[-1].scope in ("module", "class")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest groups first; tests that share a fixture of their file are one group of `--dist loadgroup`."""
    known = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.is_file() else {}
    group_of: dict[pytest.Item, str] = {}
    length: dict[str, float] = {}
    for item in items:
        group = str(item.path) if shared_fixtures(item) else item.nodeid
        group_of[item] = group
        length[group] = length.get(group, 0.0) + known.get(short_name(item.nodeid), 0.0)
        if group != item.nodeid:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: -length[group_of[item]])


def short_name(nodeid: str) -> str:
    """The name of a test without its folder and file, which it may leave."""
    return nodeid.partition("::")[2].partition("@")[0]


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    result = yield
    if terminalreporter.config.getoption("--record-seconds"):
        seconds: dict[str, float] = {}
        for reports in terminalreporter.stats.values():
            for report in reports:
                if isinstance(report, pytest.TestReport):
                    name = short_name(report.nodeid)
                    seconds[name] = seconds.get(name, 0.0) + report.duration
        kept = {
            name: round(spent, 1)
            for name, spent in sorted(seconds.items())
            if spent >= WORTH_KNOWING
        }
        SECONDS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return result
