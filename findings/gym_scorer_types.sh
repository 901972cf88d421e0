#!/usr/bin/env bash
# Scorers of reasoning-gym whose verdict hangs on Python types: "False" is right for "True", and a right grid is
# wrong once its row was saved.
#
# Package:  reasoning-gym==0.1.25
#
# Expected: score_answer(text, entry) compares the text with the answer of the entry. It returns 1.0 for the answer
#           of the entry itself and less for the opposite answer, and the README says that rows may be saved with
#           their question, answer and metadata and be handed to the scorer later.
#
# Happens:  game_of_life_halting stores "True" or "False" as text and compares bool(text) with bool(answer). Text that
#           is not empty is true in Python, so the opposite answer and any other words get the full 1.0.
#           rearc keeps the right grid in the metadata as tuples of tuples, and compares it with ==. JSON knows no
#           tuples: after json.dumps and json.loads the very same answer gets 0.05, which is the score of a wrong
#           grid. Parquet gives lists too. arc_agi is written the same way.
#
# Output seen (10 entries each, seed 42):
#           game_of_life_halting, its own answer:       [1.0]
#           game_of_life_halting, the opposite answer:  [1.0]
#           game_of_life_halting, "I do not know":      [1.0]
#           rearc, its own answer, entry as made:       [1.0]
#           rearc, its own answer, entry through JSON:  [0.05]
#           as it was
#
# Matters:  neither is an error that a run reports. On the first the reward is 1.0 for everything: the groups have no
#           spread, nothing is learnt, and the curve of the mean reward looks like success. On the second the reward
#           is 0.05 for everything as soon as the problems come from a file, so the task looks too hard for the
#           model. Scoring each entry against its own answer finds the second, but not the first: that needs a wrong
#           answer for each entry as well.
set -u
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install -q 'reasoning-gym==0.1.25' || exit 2
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys

import reasoning_gym

OPPOSITE = {"True": "False", "False": "True"}


def score(rows, answer, entry=lambda row: row):
    """The different scores that the answers get over the entries of a data set."""
    return sorted({rows.score_answer(answer(row), entry(row)) for row in rows})


def through_json(row):
    """The entry as it is read again from a line of JSON."""
    return json.loads(json.dumps(row))


halting = reasoning_gym.create_dataset("game_of_life_halting", size=10, seed=42)
grids = reasoning_gym.create_dataset("rearc", size=10, seed=42)
if {row["answer"] for row in halting} != {"True", "False"}:
    sys.exit("changed: game_of_life_halting no longer stores both answers as text")
seen = {
    "game_of_life_halting, its own answer:": score(halting, lambda row: row["answer"]),
    "game_of_life_halting, the opposite answer:": score(halting, lambda row: OPPOSITE[row["answer"]]),
    'game_of_life_halting, "I do not know":': score(halting, lambda row: "I do not know"),
    "rearc, its own answer, entry as made:": score(grids, lambda row: row["answer"]),
    "rearc, its own answer, entry through JSON:": score(grids, lambda row: row["answer"], through_json),
}
for what, scores in seen.items():
    print(f"{what:<43} {scores}")
for what, scores in seen.items():
    if scores != ([0.05] if what.endswith("JSON:") else [1.0]):
        sys.exit(f"changed: {what} {scores}")
print("as it was")
PYTHON
