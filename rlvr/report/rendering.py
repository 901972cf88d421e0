"""Templates with the filters that all pages use."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from rlvr.report import formatting
from rlvr.report.formatting import MINUS
from rlvr.storage.fields import keep_finite
from rlvr.storage.jsonl import write_whole

TEMPLATES = Path(__file__).parent / "templates"
LONGEST = 3000  # letters of a response that are shown
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def load_template(name: str) -> Template:
    """Return a file of `report/templates`, such as "report.html.j2"."""
    return _environment().get_template(name)


def render_finding(name: str, **figures: Any) -> tuple[str, str]:
    """Return heading and text of a file of `report/templates`, such as "findings/hacked.j2".

    The heading is its first line; the lines below are one text.
    """
    heading, *lines = load_template(name).render(**figures).strip().split("\n")
    return heading, " ".join(filter(None, lines))


def write_page(path: Path, page: str) -> Path:
    """Replace a text file at one stroke, without control codes; raises RunError."""
    write_whole(path, CONTROLS.sub("", page))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "clean": clean_text,
        "duration": formatting.format_duration,
        "interval": formatting.format_interval,
        "number": format_number,
        "percent": format_percent,
        "points": format_points,
        "quote": shlex.quote,
        "signed": formatting.format_change,
        "yaml": dump_yaml,
    }
    return environment


def format_percent(share: float | None, digits: int = 0) -> str:
    """Return a share in percent that no line break tears apart."""
    return formatting.format_percent(share, digits).replace(" ", "\N{NO-BREAK SPACE}")


def format_points(interval: Sequence[float]) -> str:
    """Return an interval in points.

    It has a decimal where an end is so near 0 that its sign matters.
    """
    low, high = interval
    digits = 0
    if 0 < abs(low) < 0.01 or 0 < abs(high) < 0.01:
        digits = 1
    return f"{100 * low:+.{digits}f} to {100 * high:+.{digits}f}".replace("-", MINUS)


def format_number(value: float | None) -> str:
    """Return a number with three digits, "?" where it is none or not finite."""
    if keep_finite(value) is None:
        return "?"
    return f"{value:.3g}"


def clean_text(text: Any, limit: int = LONGEST) -> str:
    """Return model text as a page may hold it: without control codes, and not endless."""
    letters = [letter for letter in str(text) if letter.isprintable() or letter in "\n\t "]
    cleaned = "".join(letters)
    if len(cleaned) <= limit:
        return cleaned
    return f"{cleaned[: limit // 2]}\n[…]\n{cleaned[-limit // 2 :]}"


def dump_yaml(value: Any) -> str:
    """Return a value as YAML with its keys in their order."""
    import yaml  # only the page of a sweep shows YAML

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None)
