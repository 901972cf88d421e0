"""The pages' templates with their filters, and the writer of pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from rlvr.report import formatting
from rlvr.report.formatting import MINUS
from rlvr.storage.jsonl import write_whole
from rlvr.storage.run_data import number

LONGEST = 3000  # letters of a response that are shown


def render_words(name: str, **figures: Any) -> tuple[str, str]:
    """A heading and a text of `report/templates/words.j2`."""
    heading, *lines = getattr(template("words.j2").module, name)(**figures).strip().split("\n")
    return heading, " ".join(filter(None, lines))


def percent(share: float | None, digits: int = 0) -> str:
    """A share that no line break tears apart."""
    return formatting.percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")


def points(interval: Sequence[float]) -> str:
    """An interval in points, with a decimal where an end is so near 0 that its sign matters."""
    digits = 1 if any(0 < abs(edge) < 0.01 for edge in interval) else 0
    return f"{100 * interval[0]:+.{digits}f} to {100 * interval[1]:+.{digits}f}".replace("-", MINUS)


def template(name: str) -> Template:
    """A page of `report/templates`, with the filters that all pages use."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=percent, duration=formatting.duration, clean=_clean, points=points)
    made.filters.update(interval=formatting.interval_text, signed=formatting.signed)
    made.filters["number"] = lambda value: "?" if number(value) is None else f"{value:.3g}"
    made.filters["quote"] = shlex.quote
    made.filters["yaml"] = partial(
        yaml.safe_dump, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return made.get_template(name)


def _clean(text: Any, limit: int = LONGEST) -> str:
    """Model text as a page may hold it: without control codes, and not endless."""
    text = "".join(letter for letter in str(text) if letter.isprintable() or letter in "\n\t ")
    return text if len(text) <= limit else f"{text[: limit // 2]}\n[…]\n{text[-limit // 2 :]}"


CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def write_page(path: Path, page: str) -> Path:
    """Replace a text file at one stroke, without control codes; raises RunError."""
    write_whole(path, CONTROLS.sub("", page))
    return path
