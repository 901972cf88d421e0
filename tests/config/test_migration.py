"""docs/migration.md: every flag of the other projects has a row, and every key that a row names is
one of ours.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import tiny
from support.rows import write

import rlvr
from rlvr.cli import main as cli
from rlvr.config import loader
from rlvr.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")

# The command of the article, the arguments of its program beside it, and what later versions call
# the same.
OPENRLHF = """
    ref_num_nodes ref_num_gpus_per_node reward_num_nodes reward_num_gpus_per_node critic_num_nodes
    critic_num_gpus_per_node actor_num_nodes actor_num_gpus_per_node vllm_num_engines vllm_tensor_parallel_size
    colocate_actor_ref pretrain save_path micro_train_batch_size train_batch_size micro_rollout_batch_size
    rollout_batch_size temperature n_samples_per_prompt max_samples max_epochs num_episodes prompt_max_len
    generate_max_len zero_stage bf16 actor_learning_rate critic_learning_rate init_kl_coef prompt_data input_key
    normalize_reward flash_attn adam_offload gradient_checkpointing save_steps load_checkpoint use_wandb wandb_run_name
    ckpt_path max_ckpt_num packing_samples prompt_data_probs top_p kl_target max_ckpt_mem use_kl_estimator_k3
    freezing_actor_steps ptx_coef l2 input_template apply_chat_template label_key remote_rm_url advantage_estimator
    value_clip eps_clip lambd gamma
""".split()
# The keys in the scripts of the three forks of verl, the examples that they ship, and the defaults
# they rely on.
VERL = """
    algorithm.adv_estimator algorithm.kl_ctrl.kl_coef algorithm.kl_ctrl.type algorithm.kl_penalty algorithm.gamma
    algorithm.lam data.train_files data.val_files data.train_batch_size data.val_batch_size data.max_prompt_length
    data.max_response_length data.return_raw_chat data.shuffle data.seed data.truncation
    actor_rollout_ref.model.path actor_rollout_ref.model.use_remove_padding actor_rollout_ref.model.use_think
    actor_rollout_ref.model.enable_gradient_checkpointing actor_rollout_ref.actor.optim.lr
    actor_rollout_ref.actor.optim.weight_decay actor_rollout_ref.actor.ppo_mini_batch_size
    actor_rollout_ref.actor.ppo_micro_batch_size actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu
    actor_rollout_ref.actor.use_dynamic_bsz actor_rollout_ref.actor.ppo_max_token_len_per_gpu
    actor_rollout_ref.actor.ppo_epochs actor_rollout_ref.actor.use_kl_loss actor_rollout_ref.actor.kl_loss_coef
    actor_rollout_ref.actor.kl_loss_type actor_rollout_ref.actor.entropy_coeff actor_rollout_ref.actor.clip_ratio
    actor_rollout_ref.actor.grad_clip actor_rollout_ref.actor.pg_loss_coeff
    actor_rollout_ref.actor.ulysses_sequence_parallel_size actor_rollout_ref.actor.fsdp_config.param_offload
    actor_rollout_ref.actor.fsdp_config.grad_offload actor_rollout_ref.actor.fsdp_config.optimizer_offload
    actor_rollout_ref.actor.checkpoint.contents actor_rollout_ref.rollout.name actor_rollout_ref.rollout.n
    actor_rollout_ref.rollout.n_val actor_rollout_ref.rollout.temperature actor_rollout_ref.rollout.val_temperature
    actor_rollout_ref.rollout.top_p actor_rollout_ref.rollout.top_k
    actor_rollout_ref.rollout.tensor_model_parallel_size actor_rollout_ref.rollout.gpu_memory_utilization
    actor_rollout_ref.rollout.log_prob_micro_batch_size actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu
    actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu actor_rollout_ref.rollout.enable_chunked_prefill
    actor_rollout_ref.rollout.max_num_batched_tokens actor_rollout_ref.rollout.max_num_seqs
    actor_rollout_ref.rollout.micro_rollout_batch_size actor_rollout_ref.rollout.enforce_eager
    actor_rollout_ref.rollout.free_cache_engine actor_rollout_ref.rollout.dtype
    actor_rollout_ref.ref.log_prob_micro_batch_size actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu
    actor_rollout_ref.ref.log_prob_max_token_len_per_gpu actor_rollout_ref.ref.fsdp_config.param_offload
    actor_rollout_ref.ref.param_offload critic.optim.lr critic.model.path critic.model.use_remove_padding
    critic.model.enable_gradient_checkpointing critic.model.fsdp_config.param_offload
    critic.model.fsdp_config.optimizer_offload critic.ppo_micro_batch_size critic.ppo_micro_batch_size_per_gpu
    critic.ppo_mini_batch_size critic.use_dynamic_bsz critic.ppo_max_token_len_per_gpu critic.cliprange_value
    reward_model.reward_manager reward_model.enable reward_model.model.path reward_model.model.use_remove_padding
    reward_model.model.fsdp_config.param_offload reward_model.param_offload reward_model.micro_batch_size
    reward_model.micro_batch_size_per_gpu reward_model.use_dynamic_bsz reward_model.forward_max_token_len_per_gpu
    reward_model.megatron.tensor_model_parallel_size trainer.total_epochs trainer.total_training_steps
    trainer.save_freq trainer.test_freq trainer.val_before_train trainer.remove_clip trainer.critic_warmup
    trainer.logger trainer.project_name trainer.experiment_name trainer.default_local_dir trainer.checkpoints_dir
    trainer.default_hdfs_dir trainer.resume_mode trainer.remove_previous_ckpt trainer.del_local_ckpt_after_load
    trainer.val_generations_to_log_to_wandb trainer.n_gpus_per_node trainer.nnodes
    REWORD_FUNCTION_TYPE FORMAT_PENALTY_VALUE VLLM_ATTENTION_BACKEND HEAD_IP HEAD_PORT WORKING_DIR ARNOLD_WORKER_NUM
    HDFS_DATA_PATH HDFS_MODEL_PATH HDFS_CHECKPOINT_PATH HDFS_LOG_PATH RUN_NAME
    --train_batch_size --val_batch_size --max_prompt_length --max_response_length --learning_rate
    --ppo_mini_batch_size --ppo_micro_batch_size --kl_loss_coef --entropy_coeffient --clip_ratio --kl_loss_type
    --temperature --log_prob_micro_batch_size --rollout_n --rollout_gpu_memory_util --rollout_tp
    --micro_rollout_batch_size --kl_coef --total_epochs --dataset_name --model_name --save_freq --test_freq
    --remove_clip --remove_previous_ckpt --suffix --config-name --config-path --method --top_index --repeat_time
""".split()


@dataclass(frozen=True)
class Row:
    """One row of a table; `ours` are overrides of a recipe and options of the command line."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    note: str

    @property
    def options(self) -> list[str]:
        return [entry for entry in self.ours if entry.startswith("--")]

    @property
    def overrides(self) -> list[str]:
        return [entry for entry in self.ours if not entry.startswith("--")]


def rows_of(part: str) -> list[Row]:
    """The rows of the tables `theirs | ours | note`."""
    found = []
    for table in re.findall(
        r"\| theirs \| ours \| note \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", part
    ):
        for line in table.splitlines():
            theirs, ours, note = (cell.strip() for cell in line.strip("|").split("|"))
            found.append(Row(tuple(quoted(theirs)), tuple(quoted(ours)), note))
            assert quoted(ours) or ours == "–", line
    return found


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


FIRST, SECOND = PAGE.split("\n## SimpleRL-reason")[1].split("\n## SimpleRL-Zoo")
ROWS = {"openrlhf": rows_of(FIRST), "verl": rows_of(SECOND)}
ALL = [pytest.param(row, id=row.theirs[0]) for rows in ROWS.values() for row in rows]
BASE: dict[str, Any] = {
    "train": [{"data": {"name": "file", "path": "base.json"}}],
    "rollout": {"problems": 1024, "samples": 8},
}


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the file of rewards that the page speaks of."""
    (tmp_path / "my_rewards.py").write_text(
        "def reward_func(queries, prompts, labels):\n    return [0.0] * len(queries)\n\n"
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    return 0.0\n"
    )
    monkeypatch.chdir(tmp_path)


def test_there_are_tables_and_their_rows_are_whole() -> None:
    assert len(ROWS["openrlhf"]) > 60 and len(ROWS["verl"]) > 90
    assert len(re.findall(r"^\| theirs \|", PAGE, re.M)) == 6
    assert all(row.theirs for rows in ROWS.values() for row in rows)


@pytest.mark.parametrize(
    ("part", "wanted"), [("openrlhf", [f"--{flag}" for flag in OPENRLHF]), ("verl", VERL)]
)
def test_every_flag_of_the_other_projects_has_one_row(part: str, wanted: list[str]) -> None:
    listed = [name for row in ROWS[part] for name in row.theirs]
    assert {name: count for name, count in Counter(listed).items() if count > 1} == {}
    bare = {re.split(r"[= ]", name)[0] for name in listed}
    assert sorted(set(wanted) - bare) == []


@pytest.mark.parametrize("row", ALL)
def test_a_row_without_a_key_of_ours_says_why(row: Row) -> None:
    assert row.ours or len(row.note) > 15


@pytest.mark.parametrize("row", [p for p in ALL if p.values[0].overrides])
def test_what_a_row_says_is_a_recipe_when_it_is_laid_over_one(row: Row, at_home: None) -> None:
    found = loader.load(BASE, row.overrides).model_dump(mode="json")
    for entry in row.overrides:
        assert at(found, entry.partition("=")[0]) is not None, entry


def at(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


@pytest.fixture
def known_options(capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        cli.parse(["train", "--help"])
    return set(re.findall(r"--[a-z]+", capsys.readouterr().out))


@pytest.mark.parametrize("row", [p for p in ALL if p.values[0].options])
def test_options_of_the_command_line_exist(row: Row, known_options: set[str]) -> None:
    assert {option.split()[0] for option in row.options} <= known_options


@pytest.mark.parametrize(
    "block", re.findall(r"```yaml\n(.*?)```", PAGE, re.S), ids=lambda b: b.splitlines()[0]
)
def test_the_scripts_on_the_page_are_recipes(block: str) -> None:
    loaded = loader.load(yaml.safe_load(block))
    assert loader.load(yaml.safe_load(loader.dump(loaded))) == loaded
    assert block.startswith("# ") and loaded.run.steps >= 160


def test_the_four_scripts_are_there() -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
    assert [block["reward"] for block in blocks] == [
        "simplerl_v0",
        "simplerl_zoo",
        "logic_rl",
        "one_shot",
    ]
    assert [loader.load(block).run.steps for block in blocks] == [160, 620, 560, 2000]


def test_an_override_that_is_not_ours_would_be_found() -> None:
    """The check of the rows can fail."""
    for wrong in (
        ["rollout.sample=8"],
        ["advantage=grpoo"],
        ["train.0.prompt={name: raw, colum: input}"],
    ):
        with pytest.raises(UserError):
            loader.load(BASE, wrong)


def test_the_readme_leads_to_the_page() -> None:
    assert "(docs/migration.md)" in (ROOT / "README.md").read_text()


# --- Mixing by weight, which the page promises


def test_two_files_are_drawn_in_proportion_to_their_weights(
    tmp_path: Path, tiny_model: Path
) -> None:
    """640 draws at 3 to 1: five standard deviations are 0.086. The small file begins anew many
    times.
    """
    files = {"big": 40, "small": 4}
    paths = {
        name: write(
            tmp_path / f"{name}.json",
            [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(count)],
        )
        for name, count in files.items()
    }
    weights = {"big": 0.6, "small": 0.2}  # they need not add up to 1
    train = [
        {"data": {"name": "file", "path": paths[name]}, "weight": weights[name]} for name in files
    ]
    rollout = {"problems": 64, "samples": 1, "max_tokens": 1}
    tree = tiny.recipe(
        tiny_model, train=train, rollout=rollout, eval={"sets": []}, verify={"echo_limit": 1.0}
    )
    rlvr.train(tree, run__folder=tmp_path, run__steps=10)
    lines = (tmp_path / "tiny" / "history.jsonl").read_text().splitlines()
    drawn = Counter(json.loads(line)["id"].partition("/")[0] for line in lines)
    assert drawn.total() == 640
    assert drawn["big"] / 640 == pytest.approx(0.75, abs=0.09)
