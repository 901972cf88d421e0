"""One file outside the repository adds a plug-in of every kind, and a run trains with all of them."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import tiny

import rlvr
from rlvr.build.run import build
from rlvr.cli import main as cli
from rlvr.config import loader, plugins
from rlvr.errors import UserError

EXTENSION = '''
"""Everything that a user may add, in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rlvr.config.schema import EvalSetConfig, Spec
from rlvr.registry import register
from rlvr.rollouts.gather import CollectedGroups
from rlvr.types import Finish, Generation, Problem, Rendered, Reward, Status, Verdict

SEEN = {"attempts": 0, "progress": [], "selected": 0, "kept": 0, "closed": 0}


def letters(*, words: tuple[str, ...] = ("ab", "cd", "ef"), split: Literal["train", "test"] = "train"):
    """Data: spell a word."""
    return [Problem(f"letters/{split}/{word}", "spell", f"spell {word}", word) for word in words]


def spell(problem, response, *, casefold: bool = False):
    """Task: the word stands in the text."""
    text = response.text.casefold() if casefold else response.text
    found = problem.answer in text
    return Verdict(Status.CORRECT if found else Status.WRONG, text, True, "spelled" if found else "not spelled")


def ask(problem, tokenizer, *, ending: str = "\\n"):
    """Prompt."""
    return Rendered(f"please {problem.question}{ending}")


def overlap(response, ground_truth):
    """Reward: a plain function of one response."""
    return len(set(response) & set(ground_truth))


def shortest(group, context, *, bonus: float = 0.5):
    """Reward: sees the group."""
    least = min(len(member.rollout.token_ids) for member in group.members)
    return [Reward(bonus * (len(m.rollout.token_ids) == least), {"bonus": bonus}) for m in group.members]


def parts(response, verdict, *, scale: Annotated[float, Field(gt=0)] = 1.0):
    """Reward: named parts."""
    return {"spelled": scale * verdict.correct, "length": -0.01 * len(response)}


def maximum(scored, world, *, shift: float = 0.0):
    """Advantage: the reward minus the largest of the batch."""
    return (scored.reward - scored.reward.max() - shift)[scored.sample]


@register("loss", "weighted", needs={"old", "ref"})
def weighted(out, batch, *, coef: float):
    """Loss term: with a measure of its own."""
    assert batch.ref_logprob is not None
    assert batch.old_logprob is not None
    gap = out.logprob - batch.ref_logprob
    return -batch.advantage * out.logprob + coef * gap**2, {"gap": gap.detach().abs()}


def halved(batch, *, share: float = 0.5):
    """Reduction."""
    return share * batch.mask / batch.total_tokens


def not_first(groups, *, keep_all: bool = False):
    """Filter: marks the first group."""
    from dataclasses import replace

    SEEN["kept"] += len(groups)
    return [replace(group, trained=keep_all or i > 0) for i, group in enumerate(groups)]


def twice(attempt, source, wanted, *, attempts: int = 2):
    """Gatherer: so many attempts, whatever they bring."""
    groups = []
    for number in range(attempts):
        found, source = attempt(number, source)
        groups += found
        SEEN["attempts"] += 1
    return CollectedGroups(tuple(groups), source, attempts, len(groups))


def first(problems, *, count: int = 2):
    """Selection rule."""
    SEEN["selected"] = count
    return problems[:count]


def visited(histories, *, least: int = 1):
    """Ranking: by the number of visits."""
    seen = [(name, len(visits)) for name, visits in histories.items() if len(visits) >= least]
    return sorted(seen, key=lambda row: -row[1])


def steps(progress, *, until: float = 0.5):
    """Schedule."""
    SEEN["progress"].append(progress)
    return 1.0 if progress < until else 0.25


class ScriptedEngine:
    """Engine: a double that answers with fixed texts in turn."""

    def __init__(self, module, tokenizer, compute, *, texts: tuple[str, ...] = ("ab", "xyz")):
        self.answers = [tuple(tokenizer(text)["input_ids"]) for text in texts]
        self.version, self.loaded = -1, []

    def load(self, weights, version):
        self.names = [name for name, _ in weights]
        assert self.names
        self.version = version
        self.loaded.append(version)
        SEEN["loaded"] = self.loaded

    def generate(self, requests, sampling):
        asked = [key for request in requests for key in request.keys]
        cut = [self.answers[i % len(self.answers)][: sampling.max_tokens] for i in range(len(asked))]
        return [Generation(ids, (-1.0,) * len(ids), Finish.STOP) for ids in cut]


class Diary:
    """Tracker."""

    def __init__(self, run_name, config, folder, *, name_of_file: str = "diary.jsonl"):
        self.path = Path(folder) / name_of_file
        self.path.write_text(json.dumps({"run": run_name, "steps": config["run"]["steps"]}) + "\\n")

    def log(self, record, kind):
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": record["step"]}) + "\\n")

    def close(self):
        SEEN["closed"] += 1


def spelling(*, words: tuple[str, ...] = ("gh", "ab")):
    """Benchmark: a row."""
    here = __file__
    data = Spec(name=f"{here}:letters", params={"words": list(words), "split": "test"})
    return EvalSetConfig(name="spelling", data=data, task=Spec(name=f"{here}:spell"), prompt=Spec(name=f"{here}:ask"))
'''


@pytest.fixture
def extension(tmp_path: Path) -> Path:
    path = tmp_path / "somewhere else" / "mine.py"
    path.parent.mkdir()
    path.write_text(EXTENSION)
    return path


def everything(place: str, model: Path, folder: Path) -> dict[str, Any]:
    """A recipe whose every plug-in is one of the file's, each with a parameter that is not its
    default.
    """

    def of(name: str, **params: Any) -> dict[str, Any]:
        return {"name": f"{place}:{name}", **params}

    return {
        "run": {"name": "extended", "steps": 2, "folder": str(folder), "threads": 1},
        "model": {"name": str(model), "compute": "float32"},
        "train": [
            {
                "data": of("letters", words=["ab", "cd", "ef", "gh"]),
                "task": of("spell", casefold=True),
                "prompt": of("ask", ending="!"),
                "select": of("first", count=3),
            }
        ],
        "rollout": {
            "engine": of("ScriptedEngine", texts=["AB", "abcd", "xyz"]),
            "problems": 2,
            "samples": 3,
            "max_tokens": 3,
        },
        "verify": {"echo_limit": 1.0},  # the word to spell stands in the question
        "reward": [of("overlap", weight=2.0), of("shortest", bonus=0.25), of("parts", scale=3.0)],
        "gather": of("twice", attempts=3),
        "filter": [of("not_first", keep_all=False)],
        "advantage": of("maximum", shift=0.125),
        "loss": {"terms": [of("weighted", coef=0.5)], "reduction": of("halved", share=0.25)},
        "learn": {"minibatches": 2},
        "optimizer": {"lr": 1e-2, "schedule": of("steps", until=0.4)},
        "eval": {"sets": [f"{place}:spelling"]},
        "trackers": [of("Diary", name_of_file="my.jsonl")],
    }


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("how", ["path", "module"])
def test_a_run_trains_with_one_plugin_of_every_kind_from_one_file(
    how: str, extension: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(extension)
    if how == "module":
        package = tmp_path / f"my_package_{tmp_path.name}"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "plugins.py").write_text(EXTENSION.replace("here = __file__", "here = __name__"))
        monkeypatch.syspath_prepend(tmp_path)
        place = f"{package.name}.plugins"
    summary = rlvr.train(everything(place, tiny_model, tmp_path / "runs"))
    run = tmp_path / "runs" / "extended"
    metrics = rows(run / "metrics.jsonl")
    samples = rows(run / "samples" / "train-000001.jsonl")

    # Engine: its texts, cut at the limit; its versions.
    assert [row["text"] for row in samples[:3]] == ["AB", "abc", "xyz"]
    assert {row["version"] for row in samples} == {0}
    assert {row["version"] for row in rows(run / "samples" / "train-000002.jsonl")} == {1}
    # Gatherer: three attempts of two problems with three samples; the filter leaves the first group
    # out.
    assert len(samples) == 3 * 2 * 3
    assert metrics[0]["attempts"] == 3
    assert metrics[0]["filtered"] == pytest.approx(1 / 6)
    assert [row["advantage"] is None for row in samples] == [True] * 3 + [False] * 15
    # Data and selection: three of the four words.
    assert {row["gold"] for row in samples} == {"ab", "cd", "ef"}
    # Task: its rule, and `casefold`.
    assert {row["rule"] for row in samples} == {"spelled", "not spelled"}
    ab = [row for row in samples if row["gold"] == "ab"]
    assert [row["status"] for row in ab[:3]] == ["correct", "correct", "wrong"]
    # Rewards: the weight, the bonus and the scale of the recipe; parts under the names of their
    # rewards.
    assert set(ab[0]["parts"]) == {"overlap", "shortest.bonus", "parts.spelled", "parts.length"}
    assert ab[0]["parts"]["parts.spelled"] == 3.0
    assert ab[1]["parts"]["overlap"] == 4.0
    assert ab[0]["reward"] == pytest.approx(0.0 + 0.25 + 3.0 - 0.02)
    assert ab[1]["reward"] == pytest.approx(4.0 + 0.0 + 3.0 - 0.03)
    # Advantage: at most -shift, which the best one has.
    found = [row["advantage"] for row in samples if row["advantage"] is not None]
    assert max(found) == pytest.approx(-0.125)
    assert len(set(found)) > 1
    # Loss term: its own measure; it asked for the reference, whose gap was opened by the first
    # update.
    assert metrics[1]["gap"] > 0
    assert "mine" not in metrics[0]["losses"]
    assert set(metrics[0]["losses"]) == {"weighted"}
    # Schedule: four updates, the rate falls to a quarter after 0.4 of them.
    assert [row["lr"] for row in metrics] == pytest.approx([1e-2, 0.25e-2])
    # Benchmark and tracker.
    assert summary["evals"]["spelling"]["after"]["n"] == 2
    assert summary["evals"]["spelling"]["before"]["pass@1"] == 0.5
    asked = {row["question"] for row in rows(run / "samples" / "eval-spelling-000000.jsonl")}
    assert asked == {"spell gh", "spell ab"}
    diary = rows(run / "my.jsonl")
    assert diary[0] == {"run": "extended", "steps": 2}
    assert [(row["kind"], row["step"]) for row in diary[1:]] == [
        ("eval", 0),
        ("step", 1),
        ("step", 2),
        ("eval", 2),
    ]


def test_the_reduction_of_the_file_decides_the_size_of_the_gradient(
    extension: Path, tiny_model: Path, tmp_path: Path
) -> None:
    norms = {}
    for share in (0.25, 0.5):
        tree = everything(str(extension), tiny_model, tmp_path / str(share))
        tree["loss"]["reduction"]["share"] = share
        tree["learn"] = {"minibatches": 1}
        rlvr.train(tree, run__steps=1)
        norms[share] = rows(tmp_path / str(share) / "extended" / "metrics.jsonl")[0]["grad_norm"]
    assert norms[0.5] == pytest.approx(2 * norms[0.25], rel=1e-5)
    assert norms[0.25] > 0


def test_the_engine_of_the_file_receives_every_version_of_the_weights(
    extension: Path, tiny_model: Path, tmp_path: Path
) -> None:
    import sys

    rlvr.train(everything(str(extension), tiny_model, tmp_path / "runs"))
    module = next(
        module
        for module in sys.modules.values()
        if getattr(module, "__file__", None) == str(extension)
    )
    assert module.SEEN["loaded"] == [0, 1, 2]
    assert module.SEEN["attempts"] == 6
    assert module.SEEN["selected"] == 3
    assert module.SEEN["closed"] == 1
    assert sorted(set(module.SEEN["progress"])) == [0.0, 0.25, 0.5, 0.75]


def test_the_ranking_of_the_file_is_a_method_of_the_command_select(
    extension: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = tmp_path / "history.json"
    history.write_text(json.dumps({"a": [0], "b": [0, 1], "c": [1, 1, 1]}))
    assert cli.main(["select", str(history), "--method", f"{extension}:visited", "--top", "2"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [{"rank": 1, "id": "c", "score": 3.0}, {"rank": 2, "id": "b", "score": 2.0}]


# Where each plug-in of the recipe stands, and a parameter that it has.
KEYS = {
    "train.0.data": "words",
    "train.0.task": "casefold",
    "train.0.prompt": "ending",
    "train.0.select": "count",
    "rollout.engine": "texts",
    "reward.1": "bonus",
    "reward.2": "scale",
    "gather": "attempts",
    "filter.0": "keep_all",
    "advantage": "shift",
    "loss.terms.0": "coef",
    "loss.reduction": "share",
    "optimizer.schedule": "until",
    "trackers.0": "name_of_file",
}


@pytest.mark.parametrize("key", KEYS)
def test_a_misspelt_parameter_of_a_plugin_from_a_file_is_refused_with_a_suggestion(
    key: str, extension: Path, tmp_path: Path
) -> None:
    tree = everything(str(extension), Path("no-model-is-loaded"), tmp_path / "runs")
    right = KEYS[key]
    wrong = right[:-1] + right[-1] * 2
    with pytest.raises(UserError) as caught:
        loader.load(tree, {f"{key}.{wrong}": 1})
    assert f"{key}.{wrong}" in str(caught.value)
    assert f"did you mean '{right}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.0.data.split", "validation"),
        ("train.0.data.words", 3),
        ("reward.2.scale", 0),
        ("reward.1.bonus", "much"),
        ("gather.attempts", 1.5),
        ("rollout.engine.texts", "abc"),
        ("filter.0.keep_all", "perhaps"),
    ],
)
def test_a_parameter_of_the_wrong_type_or_range_is_refused(
    key: str, value: Any, extension: Path, tmp_path: Path
) -> None:
    tree = everything(str(extension), Path("no-model-is-loaded"), tmp_path / "runs")
    with pytest.raises(UserError) as caught:
        loader.load(tree, {key: value})
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parameter_without_a_default_is_required(extension: Path, tmp_path: Path) -> None:
    tree = everything(str(extension), Path("no-model-is-loaded"), tmp_path / "runs")
    tree["loss"]["terms"] = [f"{extension}:weighted"]
    with pytest.raises(UserError, match=r"loss\.terms\.0\.coef: is required"):
        loader.load(tree)


def test_a_missing_function_is_refused_with_a_suggestion(extension: Path, tmp_path: Path) -> None:
    tree = everything(str(extension), Path("no-model-is-loaded"), tmp_path / "runs")
    with pytest.raises(UserError, match=r"no function 'maximun'.*did you mean 'maximum'"):
        loader.load(tree, {"advantage": f"{extension}:maximun"})


def test_a_benchmark_of_a_file_that_is_missing_is_refused(extension: Path, tmp_path: Path) -> None:
    tree = everything(str(extension), Path("no-model-is-loaded"), tmp_path / "runs")
    with pytest.raises(
        UserError, match=r"eval\.sets.*no function 'speling'.*did you mean 'spelling'"
    ):
        loader.load(tree, {"eval.sets": [f"{extension}:speling"]})


def test_the_recipe_of_an_extended_run_loads_back_equal(extension: Path, tmp_path: Path) -> None:
    resolved = loader.load(
        everything(str(extension), Path("no-model-is-loaded"), tmp_path / "runs")
    )
    (tmp_path / "dumped.yaml").write_text(loader.dump(resolved))
    assert loader.load(tmp_path / "dumped.yaml") == resolved
    assert plugins.collect_needs(resolved) == {"old", "ref"}


def test_the_same_file_works_from_the_command_line_by_a_relative_path(
    extension: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(extension.parent)
    (tmp_path / "extended.yaml").write_text(
        yaml.safe_dump(everything("mine.py", tiny_model, tmp_path / "runs"))
    )
    assert cli.main(["train", str(tmp_path / "extended.yaml")]) == 0
    assert rows(tmp_path / "runs" / "extended" / "metrics.jsonl")[-1]["step"] == 2


REWARDS = {
    "a number": ("def mine(response, ground_truth):\n    return len(response)\n", {"mine"}),
    "a truth value": ("def mine(response):\n    return bool(response)\n", {"mine"}),
    "other names": (
        "def mine(completion, gold):\n    return len(completion) + len(gold)\n",
        {"mine"},
    ),
    "facts": (
        "def mine(problem, verdict, rollout, context):\n    return rollout.mask[0] + context.max_tokens\n",
        {"mine"},
    ),
    "parts": (
        "def mine(text, answer):\n    return {'a': 1.0, 'b': len(text)}\n",
        {"mine.a", "mine.b"},
    ),
    "a Reward": (
        "from rlvr.types import Reward\ndef mine(response):\n    return Reward(len(response), {'long': 1.0})\n",
        {"mine.long"},
    ),
    "a group": (
        "from rlvr.types import Reward\n"
        "def mine(group):\n    return [Reward(i, {}) for i, _ in enumerate(group.members)]\n",
        {"mine"},
    ),
    "a class": (
        "class mine:\n    def __new__(cls, response, *, factor: int = 2):\n        return factor * len(response)\n",
        {"mine"},
    ),
}


@pytest.mark.parametrize("case", REWARDS)
def test_a_reward_may_be_written_in_many_ways(case: str, tmp_path: Path, tiny_model: Path) -> None:
    code, names = REWARDS[case]
    (tmp_path / "mine.py").write_text(textwrap.dedent(code))
    tree = tiny.recipe(tiny_model, reward=f"{tmp_path / 'mine.py'}:mine")
    rlvr.train(tree, run__folder=tmp_path, run__steps=1)
    metrics = rows(tmp_path / "tiny" / "metrics.jsonl")[0]
    assert set(metrics["reward_parts"]) == names
    assert metrics["reward"] > 0


def test_a_reward_that_asks_for_something_unknown_says_what_there_is(
    tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "mine.py").write_text("def mine(responze):\n    return 1.0\n")
    tree = tiny.recipe(tiny_model, reward=f"{tmp_path / 'mine.py'}:mine")
    with pytest.raises((UserError, rlvr.RunError), match=r"mine.*responze.*response"):
        rlvr.train(tree, run__folder=tmp_path, run__steps=1)


CLAIMS = """
from rlvr.registry import register

def clip(out, batch):
    return -out.logprob

@register("loss", "said", needs={"signal"})
def said(out, batch):
    return -batch.advantage * out.logprob
"""


@pytest.mark.parametrize(
    ("terms", "signal"),
    [
        (["clip"], {"clip"}),
        (["clip", {"name": "kl", "coef": 0.1}], {"clip"}),
        (["FILE:said"], {"said"}),
        (["FILE:clip"], set()),
        (["clip", "FILE:clip"], set()),
        (["FILE:clip", "FILE:said"], {"said"}),
    ],
)
def test_only_what_every_term_of_a_name_says_of_itself_spares_a_backward_pass(
    terms: list[Any], signal: set[str], tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "claims.py").write_text(CLAIMS)
    named = [
        t.replace("FILE", str(tmp_path / "claims.py")) if isinstance(t, str) else t for t in terms
    ]
    built = build(loader.load(tiny.recipe(tiny_model, loss={"terms": named})))
    assert built.run.learner.objective.signal == signal
