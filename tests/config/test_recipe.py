"""Recipes: strict, fast to read, and every mistake costs one line that names the key."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr import resources
from rlvr.cli import main as cli
from rlvr.config import loader, schema
from rlvr.config.plugins import collect_needs
from rlvr.errors import UserError

ROOT = Path(__file__).parents[2]
LEAST: dict[str, Any] = {"train": [{"data": "arithmetic"}]}

PLUGINS = """
from rlvr.registry import register


@register("loss", "corrected", needs={"old", "rollout"})
def corrected(out, batch, *, cap: float = 2.0):
    return -batch.advantage * out.logprob


@register("advantage", "critic", needs={"value"})
def critic(scored, world, *, lam: float = 0.95):
    return scored.reward[scored.sample]


def bare(scored, world, *, scale=1.0):
    return scored.reward[scored.sample]
"""


def load(overrides: Any = (), **sections: Any) -> schema.Recipe:
    return loader.load({**LEAST, **sections}, overrides)


def refusal(overrides: Any = (), **sections: Any) -> str:
    """The message of the UserError that these sections give."""
    with pytest.raises(UserError) as caught:
        load(overrides, **sections)
    return str(caught.value)


def shell(*words: str, cwd: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """`rlvr …` in a process of its own."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rlvr", *words]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    path = tmp_path / "plugins.py"
    path.write_text(PLUGINS)
    return str(path)


@pytest.mark.parametrize("name", resources.list_shipped())
def test_a_shipped_recipe_resolves_and_its_dump_loads_back_equal(name: str, tmp_path: Path) -> None:
    resolved = loader.load(name)
    assert resolved.run.name == name
    path = tmp_path / "dumped.yaml"
    path.write_text(loader.dump(resolved), encoding="utf-8")
    assert loader.load(path) == resolved
    assert loader.dump(loader.load(path)) == loader.dump(resolved)


def spent() -> float:
    """Processor seconds of all ended child processes, which a busy machine does not stretch as it
    does the clock.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_demo_is_shipped() -> None:
    assert "demo" in resources.list_shipped()


def test_loading_a_recipe_is_fast_and_imports_neither_torch_nor_transformers(
    tmp_path: Path,
) -> None:
    code = (
        "import json, sys; from rlvr import resources; from rlvr.config import loader;"
        "[loader.load(name) for name in resources.list_shipped()];"
        "print(json.dumps(sorted(sys.modules)))"
    )
    start = spent()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
    )
    seconds = spent() - start
    assert done.returncode == 0, done.stderr.decode()
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "transformers", "datasets", "pyarrow"}
    assert seconds < 3


def test_a_dump_keeps_numbers_unicode_and_nested_parameters(tmp_path: Path) -> None:
    asked = {
        "name": "chat",
        "suffix": " Réponds: # \\boxed{}",
        "chat_template_kwargs": {"think": False},
    }
    resolved = load(
        train=[{"data": "arithmetic", "prompt": asked}], optimizer={"lr": 1e-5, "eps": 1e-12}
    )
    (tmp_path / "recipe.yaml").write_text(loader.dump(resolved), encoding="utf-8")
    again = loader.load(tmp_path / "recipe.yaml")
    assert again == resolved
    assert again.optimizer.lr == 1e-5
    assert again.train[0].prompt.params == {
        key: value for key, value in asked.items() if key != "name"
    }


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("train: [{data: arithmetic}]\noptimizer: {lr: 1e-5}\n")
    assert loader.load(tmp_path / "r.yaml").optimizer.lr == 1e-5
    assert load(["optimizer.lr=3e-4"]).optimizer.lr == 3e-4


def test_a_bare_string_equals_a_mapping_with_a_name() -> None:
    bare = load(
        train=[{"data": "arithmetic", "task": "math", "prompt": "plain", "select": "all"}],
        model="a/b",
        rollout={"engine": "local"},
        reward="correct",
        filter="no_signal",
        gather="refill",
        advantage="rloo",
        loss={"terms": ["reinforce"], "reduction": "sequence"},
        optimizer={"schedule": "cosine"},
        trackers="tensorboard",
    )
    named = load(
        train=[
            {
                "data": {"name": "arithmetic"},
                "task": {"name": "math"},
                "prompt": {"name": "plain"},
                "select": {"name": "all"},
            }
        ],
        model={"name": "a/b"},
        rollout={"engine": {"name": "local"}},
        reward=[{"name": "correct"}],
        filter=[{"name": "no_signal"}],
        gather={"name": "refill"},
        advantage={"name": "rloo"},
        loss={"terms": [{"name": "reinforce"}], "reduction": {"name": "sequence"}},
        optimizer={"schedule": {"name": "cosine"}},
        trackers=[{"name": "tensorboard"}],
    )
    assert bare == named
    assert bare.advantage.name == "rloo"
    assert bare != load()


def test_a_single_source_needs_no_list() -> None:
    assert load(train={"data": "arithmetic"}) == load()


def test_a_benchmark_by_name_becomes_its_row() -> None:
    row = load(eval={"sets": ["arithmetic"]}).eval.sets[0]
    assert row.name == "arithmetic"
    assert row.data is not None
    assert row.data.params["split"] == "test"


# What is wrong, and what the one line must hold: the key and, where there is one, the right word.
REFUSED: dict[str, tuple[dict[Any, Any], list[str]]] = {
    "misspelt section": ({"rolout": {}}, ["rolout", "unknown", "did you mean 'rollout'"]),
    "misspelt key": ({"rollout": {"sampels": 4}}, ["rollout.sampels", "did you mean 'samples'"]),
    "misspelt key of a source": (
        {"train": [{"data": "arithmetic", "propmt": "chat"}]},
        ["train.0.propmt", "'prompt'"],
    ),
    "misspelt key of a cold start": (
        {"cold_start": {"steps": 1, "optimizer": {"lrr": 1}}},
        ["cold_start.optimizer.lrr", "'lr'"],
    ),
    "misspelt parameter": (
        {"advantage": {"name": "grpo", "stdd": False}},
        ["advantage.stdd", "did you mean 'std'"],
    ),
    "misspelt parameter of data": (
        {"train": [{"data": {"name": "arithmetic", "cuont": 3}}]},
        ["train.0.data.cuont", "'count'"],
    ),
    "misspelt parameter of a held-out set": (
        {"eval": {"sets": [{"name": "x", "data": {"name": "arithmetic", "sede": 3}}]}},
        ["eval.sets.0.data.sede", "'seed'"],
    ),
    "misspelt parameter of a reward": (
        {"reward": {"name": "correct", "rihgt": 2}},
        ["reward.0.rihgt", "'right'"],
    ),
    "word for a number": ({"run": {"steps": "many"}}, ["run.steps", "integer", "'many'"]),
    "fraction for a count": ({"run": {"steps": 1.5}}, ["run.steps", "1.5"]),
    "number for a section": ({"rollout": 5}, ["rollout", "5"]),
    "word for a list": ({"rollout": {"stop": "x"}}, ["rollout.stop", "'x'"]),
    "nothing for a section": ({"run": None}, ["run", "None"]),
    "out of range": ({"rollout": {"top_p": 1.5}}, ["rollout.top_p", "1.5"]),
    "not a number": ({"optimizer": {"lr": float("nan")}}, ["optimizer.lr", "nan"]),
    "momentum out of range": ({"optimizer": {"betas": [0.9, 5]}}, ["optimizer.betas", "5"]),
    "zero samples": ({"rollout": {"samples": 0}}, ["rollout.samples", "0"]),
    "unknown choice": (
        {"model": {"name": "x", "dtype": "int8"}},
        ["model.dtype", "float32", "int8"],
    ),
    "wrong type of a parameter": (
        {"train": [{"data": {"name": "arithmetic", "count": "x"}}]},
        ["train.0.data.count", "'x'"],
    ),
    "parameter out of range": (
        {"rollout": {"engine": {"name": "local", "max_sequences": 0}}},
        ["rollout.engine.max_sequences"],
    ),
    "weight that is no number": (
        {"reward": {"name": "correct", "weight": math.nan}},
        ["reward.0.weight", "finite", "nan"],
    ),
    "no problem at all": (
        {"train": [{"data": {"name": "arithmetic", "count": 0}}]},
        ["count", "greater than or equal to 1"],
    ),
    "weight of a reward": (
        {"reward": {"name": "correct", "weight": "heavy"}},
        ["reward.0.weight", "'heavy'"],
    ),
    "missing parameter": ({"loss": {"terms": ["clip", "kl"]}}, ["loss.terms.1.coef", "required"]),
    "missing length": ({"loss": {"reduction": "constant"}}, ["loss.reduction.length", "required"]),
    "missing steps": ({"cold_start": {}}, ["cold_start.steps", "required"]),
    "missing name": ({"train": [{"data": {"nmae": "arithmetic"}}]}, ["train.0.data", "name"]),
    "unknown estimator": ({"advantage": "gpro"}, ["advantage", "'gpro'", "did you mean 'grpo'"]),
    "unknown data": (
        {"train": [{"data": "aritmetic"}]},
        ["train.0.data", "did you mean 'arithmetic'"],
    ),
    "unknown task": (
        {"train": [{"data": "arithmetic", "task": "mat"}]},
        ["train.0.task", "did you mean 'math'"],
    ),
    "unknown prompt": (
        {"train": [{"data": "arithmetic", "prompt": "caht"}]},
        ["train.0.prompt", "did you mean 'chat'"],
    ),
    "unknown selection": (
        {"train": [{"data": "arithmetic", "select": "radnom"}]},
        ["train.0.select", "'random'"],
    ),
    "unknown reward": ({"reward": ["correct", "lenght"]}, ["reward.1", "'lenght'", "known: "]),
    "unknown term": (
        {"loss": {"terms": ["clip", "entorpy"]}},
        ["loss.terms.1", "did you mean 'entropy'"],
    ),
    "unknown reduction": ({"loss": {"reduction": "sequnce"}}, ["loss.reduction", "'sequence'"]),
    "unknown filter": ({"filter": "no_signl"}, ["filter.0", "did you mean 'no_signal'"]),
    "unknown gatherer": ({"gather": "refil"}, ["gather", "did you mean 'refill'"]),
    "unknown schedule": (
        {"optimizer": {"schedule": "cosin"}},
        ["optimizer.schedule", "did you mean 'cosine'"],
    ),
    "unknown schedule of the cold start": (
        {"cold_start": {"steps": 1, "optimizer": {"schedule": "cosin"}}},
        ["cold_start.optimizer.schedule", "did you mean 'cosine'"],
    ),
    "unknown engine": (
        {"rollout": {"engine": "locla"}},
        ["rollout.engine", "did you mean 'local'"],
    ),
    "unknown tracker": ({"trackers": ["wandbb"]}, ["trackers.0", "did you mean 'wandb'"]),
    "unknown benchmark": (
        {"eval": {"sets": ["arithmetc"]}},
        ["eval.sets", "did you mean 'arithmetic'"],
    ),
    "two sets of one name": (
        {"eval": {"sets": ["arithmetic", "arithmetic"]}},
        ["eval.sets", "same name"],
    ),
    "no source": ({"train": []}, ["train"]),
    "indivisible batch": (
        {"rollout": {"problems": 3, "samples": 5}, "learn": {"minibatches": 4}},
        ["learn.minibatches", "4", "15"],
    ),
    "a key that is a number": ({"run": {1: 2}}, ["run.1"]),
    "no such file": ({"advantage": "nowhere.py:f"}, ["advantage", "nowhere.py"]),
    "no such module": ({"advantage": "no_such_module.x:f"}, ["advantage", "no_such_module"]),
    "no such function": (
        {"advantage": "json:lods"},
        ["advantage", "'lods'", "did you mean 'loads'"],
    ),
    "no module": ({"advantage": ":f"}, ["advantage"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_in_one_line_that_names_the_key(case: str) -> None:
    sections, words = REFUSED[case]
    with pytest.raises(UserError) as caught:
        loader.load({**LEAST, **sections})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_a_train_section_is_required() -> None:
    with pytest.raises(UserError, match=r"train: is required") as caught:
        loader.load({"run": {"steps": 1}})
    assert "\n" not in str(caught.value)


def test_a_key_of_another_section_is_not_suggested() -> None:
    message = refusal(run={"sampels": 3})
    assert "samples" not in message
    assert "steps" in message


def test_importance_correction_is_refused_with_top_p_or_top_k(plugins: str) -> None:
    terms = {"terms": [f"{plugins}:corrected"]}
    assert load(loss=terms).loss.terms[0].name.endswith("corrected")
    for cut in ({"top_p": 0.9}, {"top_k": 20}):
        message = refusal(loss=terms, rollout=cut)
        assert "\n" not in message
        assert all(word in message for word in ("loss.terms", "corrected", "top_p", "top_k"))


def test_truncated_sampling_without_importance_correction_is_taken() -> None:
    assert load(rollout={"top_p": 0.9, "top_k": 20}).rollout.top_k == 20


def test_an_estimator_that_needs_a_critic_is_refused(plugins: str) -> None:
    message = refusal(advantage=f"{plugins}:critic")
    assert "\n" not in message
    assert "advantage" in message
    assert "critic" in message


def test_needs_are_those_of_the_terms_and_the_estimator(plugins: str) -> None:
    assert collect_needs(load()) == frozenset()
    assert collect_needs(load(loss={"terms": ["clip", {"name": "kl", "coef": 0.1}]})) == {"ref"}
    assert collect_needs(load(loss={"terms": [f"{plugins}:corrected"]})) == {"old", "rollout"}


def test_a_parameter_without_annotation_takes_any_value(plugins: str) -> None:
    assert load(advantage={"name": f"{plugins}:bare", "scale": 3.0}).advantage.params == {
        "scale": 3.0
    }
    assert "did you mean 'scale'" in refusal(advantage={"name": f"{plugins}:bare", "sacle": 3.0})


@pytest.mark.parametrize("content", ["import nothing_of_that_name", "def f(:", "1 / 0"])
@pytest.mark.parametrize("how", ["file", "module"])
def test_a_plugin_that_does_not_load_is_refused_in_one_line(
    content: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{how}_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    place = str(tmp_path / f"{name}.py") if how == "file" else name
    message = refusal(advantage=f"{place}:f")
    assert "\n" not in message
    assert "advantage" in message
    assert name in message


BROKEN_YAML = {
    "open list": ("train:\n  - data: arithmetic\nrun: [1\n", 3),
    "two colons": ("train:\n  - data: arithmetic\n    task: math: x\n", 3),
    "tab": ("train:\n\t- data: arithmetic\n", 2),
    "object": ("train:\n  - data: !!python/tuple [a, b]\n", 2),
}


@pytest.mark.parametrize("case", BROKEN_YAML)
def test_broken_yaml_names_file_and_line(case: str, tmp_path: Path) -> None:
    text, line = BROKEN_YAML[case]
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        loader.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "mine.yaml" in message
    named = int(message.partition("line ")[2].partition(":")[0])
    assert line <= named <= line + 1  # YAML notices an open bracket where the text ends


@pytest.mark.parametrize("content", [b"train: \xff\xfe\n", b"train: \x00\n", b"", b"- a\n", b"3\n"])
def test_a_file_that_is_no_recipe_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.yaml") as caught:
        loader.load(path)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train: [{data: arithmetic}]\nrollout: {sampels: 3}\n")
    with pytest.raises(UserError, match=r"mine.*rollout\.sampels"):
        loader.load(path)


def test_the_name_of_a_run_is_the_file_stem_or_run_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train: [{data: arithmetic}]\n")
    assert loader.load(path).run.name == "mine"
    assert loader.load(path, ["run.name=other"]).run.name == "other"


@pytest.mark.parametrize(("asked", "near"), [("dmeo", "demo"), ("demoo", "demo")])
def test_an_unknown_recipe_is_refused_with_a_suggestion(asked: str, near: str) -> None:
    with pytest.raises(UserError, match=f"'{asked}'.*did you mean '{near}'") as caught:
        loader.load(asked)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nope\.yaml"):
        loader.load(tmp_path / "nope.yaml")


def test_overrides_reach_sections_lists_and_bare_strings() -> None:
    base: dict[str, Any] = {
        "train": [
            {"data": "arithmetic"},
            {"data": {"name": "arithmetic", "kinds": ["add", "sub"]}},
        ],
        "model": "a/b",
        "reward": ["correct", "format_only"],
        "advantage": "grpo",
    }
    words = [
        "run.steps=7",
        "rollout.temperature=0.5",
        "train.1.data.kinds.0=mul",
        "train.0.data.count=5",
        "train.0.task=math",
        "model.dtype=float64",
        "reward.1.weight=0.5",
        "advantage.std=false",
        "optimizer.clip=null",
        "filter=no_signal",
        "run.name=a b=c",
    ]
    found = loader.load(base, words)
    assert found.run.steps == 7
    assert found.run.name == "a b=c"
    assert found.rollout.temperature == 0.5
    assert found.train[1].data.params["kinds"] == ["mul", "sub"]
    assert found.train[0].data == schema.Spec(name="arithmetic", params={"count": 5})
    assert found.train[0].task == schema.Spec(name="math")
    assert (found.model.name, found.model.dtype) == ("a/b", "float64")
    assert [spec.params for spec in found.reward] == [{}, {"weight": 0.5}]
    assert found.advantage == schema.Spec(name="grpo", params={"std": False})
    assert found.optimizer.clip is None
    assert found.filter == (schema.Spec(name="no_signal"),)


def test_overrides_may_be_a_mapping_and_leave_the_recipe_as_it_was() -> None:
    tree = {"train": [{"data": {"name": "arithmetic", "count": 3}}]}
    assert loader.load(tree, {"train.0.data.count": 5}) == loader.load(
        tree, ["train.0.data.count=5"]
    )
    assert tree == {"train": [{"data": {"name": "arithmetic", "count": 3}}]}


@pytest.mark.parametrize(
    "word",
    [
        "advantage.std=false",
        "loss.terms.0.low=0.1",
        "rollout.engine.max_sequences=4",
        "reward.0.weight=2",
    ],
)
def test_an_override_reaches_into_a_default_as_show_prints_it(word: str) -> None:
    key, _, value = word.partition("=")
    shown: Any = yaml.safe_load(loader.dump(load([word])))
    for part in key.split("."):
        shown = shown[int(part) if part.isdigit() else part]
    assert shown == yaml.safe_load(value)


def test_an_override_by_row_reaches_a_section_written_as_a_bare_string() -> None:
    assert load(["reward.0.weight=2"], reward="correct").reward[0].params == {"weight": 2}


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("run.steps", "run.steps"),
        ("run.setps=3", "did you mean 'steps'"),
        ("rnu.steps=3", "did you mean 'run'"),
        ("train.1.data.count=5", "train.1.data.count"),
        ("train.x.data=chat", "train.x.data"),
        ("train.-1.data=chat", "train.-1.data"),
        ("train.\u00b2.data=chat", "train.\u00b2.data"),
        ("train.0.data.count.more=5", "train.0.data.count"),
        ("run.steps=many", "run.steps"),
        ("run.steps=", "run.steps"),
        ("run.name=[1", "run.name"),
        ("=3", "key=value"),
    ],
)
def test_a_bad_override_is_refused_in_one_line_that_names_it(word: str, named: str) -> None:
    message = refusal([word], train=[{"data": {"name": "arithmetic", "count": 3}}])
    assert "\n" not in message
    assert named in message


SHELL = {
    "unknown recipe": (["train", "dmeo"], "demo"),
    "misspelt key": (["train", "demo", "rollout.sampels=4"], "rollout.sampels"),
    "misspelt parameter": (["train", "demo", "train.0.data.cuont=4"], "train.0.data.cuont"),
    "wrong type": (["train", "demo", "run.steps=many"], "run.steps"),
    "missing parameter": (["train", "demo", "loss.terms=[kl]"], "loss.terms.0.coef"),
    "unknown plug-in": (["train", "demo", "advantage=gpro"], "advantage"),
    "indivisible batch": (["train", "demo", "learn.minibatches=7"], "learn.minibatches"),
    "no override": (["train", "demo", "run.steps"], "run.steps"),
    "after an option": (["train", "demo", "--overwrite", "run.setps=2"], "run.setps"),
    "show": (["show", "demo", "rollout.sampels=4"], "rollout.sampels"),
    "eval": (["eval", "nowhere", "--benchmarks", "arithmetc"], "arithmetic"),
    "data": (["data", "arithmetic", "--cuont", "5"], "cuont"),
    "unknown data": (["data", "arithmetc"], "arithmetic"),
    "data without a value": (["data", "arithmetic", "--count"], "--count"),
    "report": (["report", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", SHELL)
def test_the_command_line_refuses_bad_input_with_status_2_and_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, named = SHELL[case]
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("rlvr: ")
    assert named in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["train"], ["trian", "demo"], ["train", "demo", "--nonsense"], []]
)
def test_a_command_that_is_none_exits_with_2_and_prints_nothing_on_stdout(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "rlvr" in said.err.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [("train", "demo", "rollout.sampels=4"), ("train", "dmeo"), ("show", "demo", "advantage=gpro")],
)
def test_a_process_refuses_bad_input_within_3_seconds_and_without_a_traceback(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    start = spent()
    done = shell(*words, cwd=tmp_path)
    assert spent() - start < 3
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("advantage.alone", "reward", "singleton"),
        ("advantage.floor", 1e-6, "min_variance"),
        ("loss.reduction.slack", 1e-8, "count_eps"),
        ("train.0.adaptive.rest", 2, "cooldown"),
    ],
)
def test_a_key_that_was_renamed_is_refused_with_its_new_name(
    key: str, value: object, name: str
) -> None:
    with pytest.raises(UserError, match=f"{key}: unknown key; it is called '{name}' now"):
        loader.load("demo", {key: value})
