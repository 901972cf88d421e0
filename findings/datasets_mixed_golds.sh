#!/usr/bin/env bash
# One number among the golds changes the golds of all other rows.
#
# Package:  datasets==5.2.0 (read with pandas==3.1.1, pyarrow==26.0.1)
#
# Expected: a JSONL file whose column "answer" holds text in most rows and a number in one gives back what is in the
#           file, or is refused. Each row of such a file says itself whether its gold is text ("007") or a number (7),
#           and the type Json() is described as objects that are stored as encoded strings.
#
# Happens:  with text alone the golds come back as they are. With one number beside them the type of the column becomes
#           Json(), and each gold that is text is then *read* as JSON when it happens to be JSON: "007" is the number
#           7, "0.10" is 0.1, "1e5" is 100000.0, "true" is True, "null" is None, "[1,2]" is a list. Golds that are not
#           JSON stay. Asking for text, with features of Value("string"), turns it round: golds that are JSON stay, and
#           those that are not get quotes and backslashes: 1/2 is "1\/2", \frac{1}{2} is "\\frac{1}{2}". Neither way
#           gives a warning. With on_mixed_types=None the file is refused.
#
# Output seen:
#           text alone   Value('string'): ['007', '0.10', '1e5', 'true', 'null', '[1,2]', '1/2', '\\frac{1}{2}']
#           one number   Json(decode=True): [7, 0.1, 100000.0, True, None, [1, 2], '1/2', '\\frac{1}{2}', 12]
#           as features  Value('string'): ['007', '0.10', '1e5', 'true', 'null', '[1,2]', '"1\\/2"',
#                        '"\\\\frac{1}{2}"', '12']
#           refused with on_mixed_types=None
#           as it was
#
# Matters:  sources of problems are often put together (golds of one as numbers, golds of another as text). After that
#           the text "007" of a cipher, "0.10" of a price and the code "1e5" are graded against other golds: str(gold)
#           is "7", "0.1", "100000.0". A problem whose answer is the word "null" has no gold at all. With features,
#           every fraction and every LaTeX answer is compared with a text in quotes. Rewards are wrong for some rows
#           and right for the rest, so no curve shows it. What helps: every gold written as text, and
#           on_mixed_types=None for whatever was forgotten.
set -u
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install -q 'datasets==5.2.0' 'pandas==3.1.1' 'pyarrow==26.0.1' || exit 2
export HF_HOME="$folder/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from datasets import Features, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

FOLDER = Path(sys.argv[1])
GOLDS = ["007", "0.10", "1e5", "true", "null", "[1,2]", "1/2", r"\frac{1}{2}"]
TEXT = Features({"question": Value("string"), "answer": Value("string")})


def load(name, golds, **options):
    """What `load_dataset` gives back for the golds, and the type of their column."""
    path = FOLDER / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"question": "?", "answer": gold}) + "\n" for gold in golds))
    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(FOLDER / name), **options)
    return rows.features["answer"], rows["answer"][:]


kind, alone = load("alone", GOLDS)
print(f"text alone   {kind}: {alone}")
kind, mixed = load("mixed", [*GOLDS, 12])
print(f"one number   {kind}: {mixed}")
kind, asked = load("asked", [*GOLDS, 12], features=TEXT)
print(f"as features  {kind}: {asked}")
try:
    load("strict", [*GOLDS, 12], on_mixed_types=None)
except DatasetGenerationError:
    print("refused with on_mixed_types=None")
else:
    sys.exit("changed: on_mixed_types=None no longer refuses a column of text and numbers")

if alone != GOLDS:
    sys.exit("changed: text alone no longer comes back as it is")
if mixed != [7, 0.1, 100000.0, True, None, [1, 2], "1/2", r"\frac{1}{2}", 12]:
    sys.exit("changed: a number in the column no longer has the text golds read as JSON")
if asked != [*GOLDS[:6], r'"1\/2"', r'"\\frac{1}{2}"', "12"]:
    sys.exit("changed: features of text no longer give golds in quotes")
print("as it was")
PYTHON
