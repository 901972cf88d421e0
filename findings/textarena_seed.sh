#!/usr/bin/env bash
# The seed of a game of TextArena is not the game's: it seeds the whole process.
#
# Package:  textarena==0.7.4
#
# Expected: env.reset(num_players=2, seed=1) seeds the game, as the same call does in Gymnasium, where each
#           environment has a generator of its own. Then a game is a function of its seed and its moves, and nothing
#           outside of the game changes.
#
# Happens:  the seed goes to random.seed(), and the games draw from the module `random` that all of the process
#           shares. Three things follow:
#           - a trainer that draws its next problem with `random` after each reset draws the same problem for ever;
#           - two games played in turn throw each other's dice: with the same seed and the same moves, a game goes
#             otherwise than alone;
#           - KuhnPoker shuffles the deck of the last game where it lies, so that a second reset of the same object
#             with the same seed deals other cards, while a new object deals the first ones again.
#
# Output seen:
#           problems drawn after five resets with seed 7:         [339563, 339563, 339563, 339563, 339563]
#           throws of PigDice, seed 1, alone:                     [2, 5, 1, 3, 1, 4, 4, 4]
#           throws of PigDice, seed 1, beside another game:       [1, 1, 2, 6, 3, 2, 1, 6]
#           cards of KuhnPoker, seed 1, one object, four resets:  [[1, 2], [2, 0], [0, 1], [1, 2]]
#           cards of KuhnPoker, seed 1, four objects:             [[1, 2], [1, 2], [1, 2], [1, 2]]
#           as it was
#
# Matters:  rollouts of a group must start from the same state, and a run that is resumed must repeat. With concurrent
#           games both depend on who moves first, which is a matter of how long each answer takes. And reset() with a
#           fixed seed, meant for evaluation, puts the sampling of the training data back to the same place each time.
#           What helps: one process for each game; or random.getstate() and random.setstate() around each call, and a
#           new object for each game.
set -u
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install -q 'textarena==0.7.4' || exit 2
"$folder/venv/bin/python" - <<'PYTHON'
import random
import sys

import textarena


def start(name, seed):
    """A new game, reset with the seed."""
    game = textarena.make(name)
    game.reset(num_players=2, seed=seed)
    return game


def throw(game):
    """Let the player in turn throw the die, and tell what it shows."""
    game.get_observation()
    game.step("[roll]")
    return game.roll_value


def deal(game, seed):
    """Reset the game with the seed, and tell the cards of the two players."""
    game.reset(num_players=2, seed=seed)
    return list(game.state.game_state["player_cards"].values())


game = textarena.make("PigDice-v0")
problems = []
for _ in range(5):
    game.reset(num_players=2, seed=7)
    problems.append(random.randrange(1_000_000))

game = start("PigDice-v0", seed=1)
alone = [throw(game) for _ in range(8)]

game = start("PigDice-v0", seed=1)
other = start("PigDice-v0", seed=2)
beside = []
for _ in range(8):
    beside.append(throw(game))
    throw(other)

game = textarena.make("KuhnPoker-v0")
same_object = [deal(game, seed=1) for _ in range(4)]
new_objects = [deal(textarena.make("KuhnPoker-v0"), seed=1) for _ in range(4)]

print(f"problems drawn after five resets with seed 7:         {problems}")
print(f"throws of PigDice, seed 1, alone:                     {alone}")
print(f"throws of PigDice, seed 1, beside another game:       {beside}")
print(f"cards of KuhnPoker, seed 1, one object, four resets:  {same_object}")
print(f"cards of KuhnPoker, seed 1, four objects:             {new_objects}")

if len(set(problems)) != 1:
    sys.exit("changed: a reset with a seed no longer seeds the random numbers of the process")
if alone == beside:
    sys.exit("changed: a game beside another one goes as it does alone")
if all(cards == new_objects[0] for cards in new_objects) and same_object == new_objects:
    sys.exit("changed: a second reset with the same seed deals the same cards")
if any(cards != new_objects[0] for cards in new_objects):
    sys.exit("changed: new games with the same seed are dealt different cards")
print("as it was")
PYTHON
