"""Rules that no section can check alone."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from rlvr import registry
from rlvr.config.plugins import FOREIGN_PARAMETERS, collect_needs, list_plugins, list_policy_terms
from rlvr.config.schema import Recipe
from rlvr.errors import UserError, suggest

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # categories of Unicode: controls, surrogates, line ends
LONGEST_NAME = 200  # bytes: a file system takes 255, and files of samples have more around a name


def check(recipe: Recipe) -> None:
    """Refuse what a schema of single keys cannot see; raises UserError."""
    check_plugins(recipe)
    check_run_place(recipe)
    check_eval_set_names(recipe)
    check_best_checkpoint(recipe)
    recipe.learn.count_minibatches(recipe.rollout)
    check_truncated_sampling(recipe)
    check_shards(recipe)
    check_critic(recipe)


def check_plugins(recipe: Recipe) -> None:
    """Refuse unknown plug-ins and parameters that are not theirs."""
    for where, kind, spec in list_plugins(recipe):
        if kind == "reward" and "weight" in spec.params:
            _check_weight(spec.params["weight"], where)
        if kind in FOREIGN_PARAMETERS:
            spec = spec.without(FOREIGN_PARAMETERS[kind])
        registry.find(kind, spec.name, f"{where}.name").check(spec.params, where)


def _check_weight(weight: object, where: str) -> None:
    # True is a number for Python
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise UserError(f"{where}.weight: should be a finite number, not {weight!r}")


def check_run_place(recipe: Recipe) -> None:
    """Refuse a run whose folder would lie elsewhere than in run.folder, or could not be made."""
    if recipe.run.name is not None:
        check_file_name(recipe.run.name, "run.name")
    for where, path in {"run.folder": recipe.run.folder, "model.name": recipe.model.name}.items():
        if "\0" in path:
            raise UserError(f"{where}: {path!r:.60} holds a NUL, which no path does; write another")


def check_file_name(name: str, where: str) -> None:
    """Refuse a name of which no file or folder can be called, or one elsewhere; raises UserError."""
    fault = _find_name_fault(name)
    if fault is not None:
        raise UserError(f"{where}: {name!r:.60} {fault}; write another name")


def _find_name_fault(name: str) -> str | None:
    if not name.strip() or name in (".", ".."):
        return "names no file"
    if "/" in name:
        return "has a '/', and files are named after it"
    if any(unicodedata.category(letter) in UNPRINTABLE for letter in name):
        return "has a control character or half of one"
    if len(name.encode("utf-8")) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes"
    return None


def check_eval_set_names(recipe: Recipe) -> None:
    names = [held_out.name for held_out in recipe.eval.sets]
    if len(set(names)) < len(names):
        raise UserError("eval.sets: two sets have the same name; give each its own")


def check_best_checkpoint(recipe: Recipe) -> None:
    """Refuse a best checkpoint by a set that is not evaluated."""
    best = recipe.checkpoint.best
    names = [held_out.name for held_out in recipe.eval.sets]
    if best is not None and best not in names:
        raise UserError(
            f"checkpoint.best: no set of eval.sets is called that{suggest(best, names)}"
        )


def check_truncated_sampling(recipe: Recipe) -> None:
    """Refuse importance correction of tokens that were not drawn from the whole vocabulary."""
    if not recipe.rollout.is_truncated:
        return
    for kind, spec in list_policy_terms(recipe):
        if "rollout" in registry.find(kind, spec.name, kind).needs:
            raise UserError(
                f"loss.terms: importance correction ('{spec.name}') is biased together with rollout.top_p < 1 or"
                f" rollout.top_k > 0; set top_p: 1.0 and top_k: 0"
            )


def check_shards(recipe: Recipe) -> None:
    if recipe.model.shard != "full":
        return
    obstacle = find_shard_obstacle(recipe)
    if obstacle is not None:
        raise UserError(f"model.shard: full does not go with {obstacle}")


def find_shard_obstacle(recipe: Recipe) -> str | None:
    """Return why the models of a recipe cannot be split over processes; None where they can."""
    if recipe.model.lora:
        return "model.lora: adapters are small, and what they stand on is not split over processes; leave one out"
    optimizers = {"optimizer": recipe.optimizer}
    if recipe.critic:
        optimizers["critic.optimizer"] = recipe.critic.optimizer
    for where, options in optimizers.items():
        if options.states != "full":
            return f"{where}.states: 8bit states are not split over processes; set it to full"
    return None


def check_critic(recipe: Recipe) -> None:
    """Refuse an estimator of values without a critic, and a critic whose values nobody reads."""
    reads_values = "value" in collect_needs(recipe)
    if reads_values and recipe.critic is None:
        raise UserError(
            f"advantage: '{recipe.advantage.name}' needs a critic; add the section critic: {{}}"
        )
    if not reads_values and recipe.critic is not None:
        raise UserError(
            f"critic: '{recipe.advantage.name}' reads no values; take advantage: gae, or leave critic out"
        )


def check_reference(recipe: Recipe, stages: Sequence[Recipe]) -> None:
    """Refuse a reference that should follow the policy and cannot, as only a copy of it can."""
    renewing = [i for i, stage in enumerate(recipe.stages) if stage.reference == "renewed"]
    if renewing and recipe.model.reference is not None:
        raise UserError(
            f"stages.{renewing[0]}.reference: model.reference names a model, which stays; keep one of the two"
        )
    follows = bool(renewing) or recipe.cold_start is not None
    if recipe.model.lora and follows and _copies_policy(recipe, stages):
        raise UserError(
            "model.lora: the reference is the model without adapters, so it cannot follow the policy later"
        )


def _copies_policy(recipe: Recipe, stages: Sequence[Recipe]) -> bool:
    """Return whether there is a reference that is the policy before training."""
    if recipe.model.reference is not None:
        return False
    return any("ref" in collect_needs(stage) for stage in stages)
