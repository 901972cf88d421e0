"""What One-Shot-RLVR and its critics look for in a run."""

from __future__ import annotations

from rlvr.report.findings import Finding
from rlvr.report.rendering import render_finding
from rlvr.report.trends import find_saturation, measure_trend, split_gain
from rlvr.storage.run_data import RunData

# Metrics by which texts decay, and how a sentence calls them.
SIGNS_OF_DECAY = {"non_ascii": "letters outside ASCII", "repetition": "repeated phrases"}


def find_phenomena(run: RunData) -> list[Finding]:
    """Return what One-Shot-RLVR and its critics look for, each only where the run shows it."""
    found = [
        _describe_saturation(run),
        _describe_form_and_content(run),
        _describe_tries(run),
        _describe_reflection(run),
        _describe_decay(run),
    ]
    return list(filter(None, found))


def _describe_saturation(run: RunData) -> Finding | None:
    """Say what held-out accuracy did after training accuracy was saturated."""
    step = find_saturation(run)
    if step is None:
        return None
    scores = [score for score in run.scores if score.step >= step]
    if len(scores) < 2:
        return None
    return render_finding("findings/saturated.j2", step=step, first=scores[0], last=scores[-1])


def _describe_form_and_content(run: RunData) -> Finding | None:
    """Say how much of the gain is form.

    Accuracy is the share of well-formed answers times their accuracy, and what is right without
    the form.
    """
    accuracy = run.list_held_out("pass@1")
    formatted = run.list_held_out("formatted")
    among_formatted = run.list_held_out("pass@1_formatted")
    evaluations = len(accuracy)
    if evaluations < 2 or not evaluations == len(formatted) == len(among_formatted):
        return None
    form, content, rest = split_gain(
        before=(accuracy[0], formatted[0], among_formatted[0]),
        after=(accuracy[-1], formatted[-1], among_formatted[-1]),
    )
    if max(abs(form), abs(content), abs(rest)) < 0.005:
        return None
    return render_finding("findings/form_and_content.j2", form=form, content=content, rest=rest)


def _describe_tries(run: RunData) -> Finding | None:
    """Say what several tries solve beside what one does."""
    most = _find_most_tries(run)
    one = run.list_held_out("pass@1")
    many = run.list_held_out(f"pass@{most}")
    if most < 2 or len(many) < 2:
        return None
    return render_finding("findings/tries.j2", most=most, one=one, many=many)


def _find_most_tries(run: RunData) -> int:
    """Return the largest k of the pass@k of the last evaluation."""
    most = 1
    for record in run.held_out_evals[-1:]:
        for name in record.metrics:
            k = name.removeprefix("pass@")
            if name.startswith("pass@") and k.isdigit():
                most = max(most, int(k))
    return most


def _describe_reflection(run: RunData) -> Finding | None:
    known = run.list_held_out("reflection")
    if len(known) < 2 or max(known) < 0.005:
        return None
    return render_finding("findings/reflection.j2", known=known)


def _describe_decay(run: RunData) -> Finding | None:
    """Say where texts of training decay.

    Those on held-out problems may decay with them or not, as One-Shot-RLVR saw.
    """
    signs = []
    for metric, phrase in SIGNS_OF_DECAY.items():
        change = measure_trend(run.rl_steps, metric)
        if change and change.clear and change.end > 0.05 and change.change > 0.02:
            signs.append((phrase, change, run.list_held_out(metric)))
    if not signs:
        return None
    return render_finding("findings/decay.j2", signs=signs)
