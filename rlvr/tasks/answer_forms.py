"""The forms in which a response may give its answer, as tasks ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from rlvr.grading.extract import END_MARKERS, Form
from rlvr.types import Response, Status

Forms = Annotated[tuple[Form, ...], Field(min_length=1)]

# What ends a turn: every task reads a response up to the first of these that stands in its text.
TURN_ENDS = frozenset(END_MARKERS)


def take_first(answers: Mapping[Form, str]) -> tuple[Form | None, str | None]:
    """Return the form that decides, the first that is present, and its answer."""
    for form, answer in answers.items():
        return form, answer
    return None, None


def get_unanswered_status(response: Response) -> Status:
    """Return the status of a response without an answer: a cut one might have given it later."""
    return Status.TRUNCATED if response.truncated else Status.NO_ANSWER
