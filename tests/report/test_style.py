"""Long words stay in their place on a page."""

from __future__ import annotations

import re

import pytest

from rlvr.report.rendering import TEMPLATES


@pytest.mark.parametrize("place", [".answer", ".tag", "figcaption", ".forest", ".cost"])
def test_a_word_without_a_space_is_broken(place: str) -> None:
    style = (TEMPLATES / "style.html.j2").read_text(encoding="utf-8")
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", style)
    found = [body for names, body in rules if place in re.split(r",\s*", names.strip())]
    assert any("overflow-wrap:anywhere" in body for body in found)
