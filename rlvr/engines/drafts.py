"""Guesses at the next tokens of a response: what followed the same tokens before.

A guess changes no sample. The engine reads guessed tokens along with the last one, draws each token
as it would without, and goes on while the draws equal the guesses (Leviathan et al. 2023 verify
drafts so, but with random numbers of their own, which keeps the distribution and not the sample).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# How many tokens before a guess have to be the same: first in texts of this problem, then in any.
PROBLEM_ORDERS = (3, 2, 1)
GENERAL_ORDERS = (4, 3, 2, 1)

# The table begins anew at so many entries, some 200 bytes each.
MOST_ENTRIES = 1_000_000

_Context = tuple[Hashable, ...]


class Guess(NamedTuple):
    """A token that may follow."""

    token: int
    level: int
    """By how much it was the same before: the place of its order among those of the problem, then of any."""


class DraftTable:
    """What followed each few tokens when they were seen last, by problem and in general."""

    def __init__(self) -> None:
        self._next: dict[_Context, int] = {}

    def observe(self, problem: Hashable, tokens: Sequence[int], start: int) -> None:
        """Remember what `tokens` have from `start` on.

        problem: what tells problems apart; tokens: a prompt and a response as far as it goes
        """
        if len(self._next) > MOST_ENTRIES:
            self._next.clear()
        for end in range(start, len(tokens)):
            token = tokens[end]
            for order in PROBLEM_ORDERS:
                if order <= end:
                    self._next[problem, *tokens[end - order : end]] = token
            for order in GENERAL_ORDERS:
                if order <= end:
                    self._next[None, order, *tokens[end - order : end]] = token

    def propose(self, problem: Hashable, tokens: Sequence[int], count: int) -> list[Guess]:
        """Return at most `count` tokens that may follow; fewer where nothing like it was seen."""
        longest = max(*PROBLEM_ORDERS, *GENERAL_ORDERS)
        context = list(tokens[-longest:])
        guesses: list[Guess] = []
        while len(guesses) < count:
            guess = self._find_next(problem, context)
            if guess is None:
                break
            guesses.append(guess)
            context.append(guess.token)
        return guesses

    def _find_next(self, problem: Hashable, context: Sequence[int]) -> Guess | None:
        for level, order in enumerate(PROBLEM_ORDERS):
            token = self._next.get((problem, *context[-order:]))
            if token is not None:
                return Guess(token, level)
        for level, order in enumerate(GENERAL_ORDERS, len(PROBLEM_ORDERS)):
            token = self._next.get((None, order, *context[-order:]))
            if token is not None:
                return Guess(token, level)
        return None


class PassCosts:
    """How long a pass takes by its number of tokens: a line through what was measured lately.

    Reading the weights costs the same for one token as for many, so few tokens beside each other
    cost little more than one. What is measured decides how many guesses are read, and so the time
    that a sample takes; it never decides what the sample is.
    """

    # What an older pass counts for beside a new one.
    MEMORY = 0.98

    def __init__(self) -> None:
        # Sums of 1, x, y, x², xy; they begin with passes of 1 and of 17 tokens, the second of twice the time.
        self._sums = [2.0, 18.0, 3.0, 290.0, 35.0]
        self.scale: float | None = None  # seconds

    def observe(self, tokens: int, seconds: float) -> None:
        """Count a pass."""
        if self.scale is None:
            self.scale = seconds / (1 + (tokens - 1) / 16)
        y = seconds / self.scale
        new = (1.0, tokens, y, tokens * tokens, tokens * y)
        self._sums = [self.MEMORY * old + add for old, add in zip(self._sums, new, strict=True)]

    def estimate(self, tokens: int) -> float:
        """Return how long a pass takes, in units of `scale`, never less than for fewer tokens."""
        n, x, y, xx, xy = self._sums
        slope = max((n * xy - x * y) / max(n * xx - x * x, 1e-9), 0.0)
        intercept = max((y - slope * x) / n, 0.05)
        return intercept + slope * tokens


@dataclass
class DraftWork:
    """What guesses did since the engine was last asked."""

    passes: int = 0
    sequences: int = 0  # over all passes, the responses that a pass went on with
    tokens: int = 0  # that they got
    read: int = 0  # guesses that were read
    held: int = 0  # those that were right
    saved: float = 0.0  # seconds, by what passes cost


class DraftLength:
    """Chooses how many guesses to read, by how often such guesses held and by what a pass costs."""

    # What an older guess counts for beside a new one.
    MEMORY = 0.995

    # Guesses have to save so much, since what they cost is known roughly.
    MARGIN = 1.05

    # Nothing is guessed for so many branches that not even guesses that hold so often would pay.
    BEST_RATE = 0.95

    def __init__(self, most: int) -> None:
        self.most = most
        self.costs = PassCosts()
        levels = len(PROBLEM_ORDERS) + len(GENERAL_ORDERS)
        self._seen = [2.0] * levels
        self._right = [1.0] * levels

    def count(self, guesses: Sequence[Guess], tokens: Sequence[int]) -> None:
        """Take note of which guesses held, up to the first that did not.

        tokens: what came, whether or not the guesses had been read
        """
        for guess, token in zip(guesses, tokens, strict=False):
            held = guess.token == token
            level = guess.level
            self._seen[level] = self.MEMORY * self._seen[level] + 1
            self._right[level] = self.MEMORY * self._right[level] + held
            if not held:
                break

    def limit(self, branches: int) -> int:
        """Return how many guesses for each branch may pay at best."""
        chances: list[float] = []
        for place in range(1, self.most + 1):
            chances.extend([self.BEST_RATE**place] * branches)
        return -(-self._count_worthwhile(branches, chances) // branches)

    def choose(self, guesses: Sequence[Sequence[Guess]]) -> list[int]:
        """Return of each branch the number of guesses for which most tokens come out of a second.

        [N] branches, each with some guesses -> [N]
        """
        rates = [right / seen for right, seen in zip(self._right, self._seen, strict=True)]
        # How likely each guess is to hold, and all before it: never more so than the one before.
        candidates: list[tuple[float, int]] = []
        for number, of_branch in enumerate(guesses):
            chance = 1.0
            for guess in of_branch[: self.most]:
                chance *= rates[guess.level]
                candidates.append((chance, number))
        candidates.sort(key=lambda candidate: (-candidate[0], candidate[1]))
        count = self._count_worthwhile(len(guesses), [chance for chance, _ in candidates])
        lengths = [0] * len(guesses)
        for _chance, number in candidates[:count]:
            lengths[number] += 1
        return lengths

    def _count_worthwhile(self, branches: int, chances: Sequence[float]) -> int:
        """Return how many guesses a pass should read beside the last tokens of its branches.

        chances: how likely each is to hold, the likeliest first
        """
        best = 0
        tokens = float(branches)
        best_speed = self.MARGIN * tokens / self.costs.estimate(branches)
        for count, chance in enumerate(chances, 1):
            tokens += chance
            speed = tokens / self.costs.estimate(branches + count)
            if speed > best_speed:
                best = count
                best_speed = speed
        return best
