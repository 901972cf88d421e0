"""The wordings of the word problems: `{n}` and `{m}` are two names, `{o}` things in the plural, a to c numbers >= 2."""

from __future__ import annotations

NAMES = (
    "Ada", "Ben", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Kavya", "Liam",
    "Mira", "Noor", "Otto", "Priya", "Quinn", "Rosa", "Sami", "Tara", "Umar", "Vera", "Wen", "Yusuf",
)  # fmt: skip

THINGS = (
    "apples", "marbles", "stickers", "pencils", "shells", "coins", "cookies", "books", "buttons", "cards",
    "stones", "balloons", "stamps", "beads", "plums", "ribbons",
)  # fmt: skip

# Each wording belongs to the operation that solves it.
ONE_STEP: tuple[tuple[str, str], ...] = (
    ("+", "{n} has {a} {o}. {m} gives {n} {b} more. How many {o} does {n} have now?"),
    ("+", "There are {a} {o} on the table and {b} {o} on the shelf. How many {o} are there in all?"),
    ("+", "{n} found {a} {o} in the morning and {b} {o} in the evening. How many {o} did {n} find that day?"),
    ("+", "{m} owns {a} {o}. {n} owns {b} more than {m}. How many {o} does {n} own?"),
    ("-", "{n} had {a} {o} and gave {b} of them to {m}. How many {o} does {n} have left?"),
    ("-", "A box holds {a} {o}. {n} takes out {b}. How many {o} are still in the box?"),
    ("-", "{n} needs {a} {o} and already has {b}. How many more {o} does {n} need?"),
    ("-", "{n} counted {a} {o}, {m} counted {b} fewer. How many {o} did {m} count?"),
    ("*", "{n} buys {b} bags with {a} {o} in each bag. How many {o} is that?"),
    ("*", "Every shelf holds {a} {o}. How many {o} do {b} full shelves hold?"),
    ("*", "{n} makes {a} {o} a day. How many {o} does {n} make in {b} days?"),
    ("*", "{m} has {a} {o}. {n} has {b} times as many. How many {o} does {n} have?"),
    ("/", "{n} shares {a} {o} equally among {b} friends. How many {o} does each friend get?"),
    ("/", "{a} {o} are packed into boxes of {b}. How many boxes are filled?"),
    ("/", "{n} puts {a} {o} into {b} equal rows. How many {o} are in one row?"),
    ("/", "{n} uses {b} {o} for every wreath. How many wreaths can {n} make with {a} {o}?"),
)

# Each wording belongs to the form of the expression that solves it.
TWO_STEP: tuple[tuple[str, str], ...] = (
    ("(a + b) - c", "{n} has {a} {o}, finds {b} more and then loses {c}. How many {o} does {n} have now?"),
    ("(a + b) - c", "{n} brings {a} {o} and {m} brings {b}. They use up {c}. How many {o} are left?"),
    ("(a - b) + c", "{n} had {a} {o}, gave {b} to {m} and bought {c} new ones. How many {o} does {n} have now?"),
    ("(a - b) + c", "A jar held {a} {o}. {n} took {b} and {m} put in {c}. How many {o} does the jar hold now?"),
    ("a - (b + c)", "{n} had {a} {o}, lost {b} and gave {c} to {m}. How many {o} does {n} have left?"),
    ("a * b + c", "{n} buys {a} packs of {b} {o} and gets {c} more from {m}. How many {o} does {n} have?"),
    ("a * b - c", "{n} fills {a} bags with {b} {o} each and then gives away {c}. How many {o} remain?"),
    ("a * b - c", "There are {a} rows of {b} {o}. {m} takes {c} away. How many {o} are still there?"),
    ("a + b * c", "{n} has {a} {o} and buys {b} boxes with {c} {o} each. How many {o} does {n} have now?"),
    ("(a + b) * c", "Each day {n} sells {a} {o} and {m} sells {b}. How many {o} do they sell in {c} days?"),
)
