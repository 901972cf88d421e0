"""What One-Shot-RLVR and its critics look for in a run."""

from __future__ import annotations

from rlvr.report.rendering import render_words
from rlvr.report.trends import saturation, split_gain, trend
from rlvr.storage.run_data import RunData

Said = tuple[str, str] | None  # heading, text


def phenomena(run: RunData) -> list[tuple[str, str]]:
    """What One-Shot-RLVR and its critics look for, each only where the run shows it: (heading,
    sentence).
    """
    found = [
        _saturated(run),
        _form_and_content(run),
        _tries(run),
        _reflection(run),
        _gibberish(run),
    ]
    return [one for one in found if one]


def _saturated(run: RunData) -> Said:
    step = saturation(run)
    scores = [score for score in run.scores if step is not None and score.step >= step]
    return (
        render_words("saturated", step=step, first=scores[0], last=scores[-1])
        if len(scores) > 1
        else None
    )


def _form_and_content(run: RunData) -> Said:
    """The gain split in two: accuracy is the share of well-formed answers times their accuracy, and
    what is right without the form.
    """
    columns = [run.measured(key) for key in ("pass@1", "formatted", "pass@1_formatted")]
    if len({len(column) for column in columns}) > 1 or len(columns[0]) < 2:
        return None
    form, content, rest = split_gain(*([column[at] for column in columns] for at in (0, -1)))
    if max(abs(form), abs(content), abs(rest)) < 0.005:
        return None
    return render_words("form_and_content", form=form, content=content, rest=rest)


def _tries(run: RunData) -> Said:
    last = (run.of(run.benchmarks[0])[-1].get("metrics") or {}) if run.benchmarks else {}
    most = max(
        (int(name[5:]) for name in last if name.startswith("pass@") and name[5:].isdigit()),
        default=1,
    )
    one, many = run.measured("pass@1"), run.measured(f"pass@{most}")
    return (
        render_words("tries", most=most, one=one, many=many) if most > 1 and len(many) > 1 else None
    )


def _reflection(run: RunData) -> Said:
    known = run.measured("reflection")
    return (
        render_words("reflection", known=known) if len(known) > 1 and max(known) >= 0.005 else None
    )


def _gibberish(run: RunData) -> Said:
    """Where texts of training decay while those on held-out problems do not, as One-Shot-RLVR saw,
    or both do.
    """
    signs = []
    for key, words in (("foreign", "letters outside ASCII"), ("repetition", "repeated phrases")):
        change = trend(run.rl, key)
        if change and change.clear and change.end > 0.05 and change.change > 0.02:
            signs.append((words, change, run.measured(key)))
    return render_words("decay", signs=signs) if signs else None
