"""GSM8K greedily by rlvr and by lm-eval: the same model, prompt texts and limits, and every verdict
that differs.

    python bench/lm_eval.py --data ../shared/data [--limit 200] [--max-tokens 256]

lm-eval runs in an environment of its own (.bench/lm_eval, made here on the first run) that sees the
torch and the transformers of this one, and reads a local task file whose rows hold our rendered
prompts. Its verdict is that of its own GSM8K task: the last number of the response
(flexible-extract), compared by text. Writes docs/lm_eval.md.
"""

from __future__ import annotations

import argparse
import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".bench"
PEER = CACHE / "lm_eval"
PEER_PYTHON = PEER / ("Scripts" if os.name == "nt" else "bin") / "python"
PACKAGE = "lm-eval==0.4.13"
MODEL = "smollm2-135m-instruct"
TASK = "gsm8k_as_rlvr_asks"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with gsm8k.jsonl")
    parser.add_argument("--limit", type=int, default=200, help="the first problems of the test set")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "lm_eval.md")
    args = parser.parse_args()
    make_peer()
    folder = CACHE / f"lm_eval-{args.limit}-{args.max_tokens}"
    rows, record = ours(args, folder)
    verdicts = theirs(args, folder, rows)
    page = written(args, rows, verdicts, record)
    args.out.write_text(page, encoding="utf-8")
    print(page)
    print(f"written to {args.out}")


def make_peer() -> None:
    """The environment of lm-eval: its own packages before ours."""
    stamp = PEER / ".installed"
    if stamp.is_file() and stamp.read_text() == PACKAGE:
        return
    print("setting up .bench/lm_eval (about a minute with a warm package cache)", flush=True)
    venv.create(PEER, with_pip=True)
    find = [str(PEER_PYTHON), "-c", "import site; print(site.getsitepackages()[0])"]
    packages = Path(subprocess.run(find, check=True, capture_output=True, text=True).stdout.strip())
    (packages / "ours.pth").write_text("\n".join(site.getsitepackages()))
    pip = [str(PEER_PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "-qq", PACKAGE]
    subprocess.run(pip, check=True)
    stamp.write_text(PACKAGE)


def ours(args: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Our samples with the texts of their prompts, and the record; a run that was ended goes on."""
    from rlvr.build.benchmarks import make_benchmark
    from rlvr.build.models import load_engine
    from rlvr.build.problems import read_problems
    from rlvr.config.schema import ModelConfig, Spec
    from rlvr.run.eval_rows import read_rows
    from rlvr.run.evaluate import evaluate
    from rlvr.types import Draw, Sampling

    asked = {"limit": args.limit, "max_tokens": args.max_tokens}
    (record,) = evaluate(MODEL, ["gsm8k"], **asked, data=args.data, out=folder / "ours")
    (row,) = read_rows([{"name": "gsm8k", "limit": args.limit}])
    assert row.data is not None
    row = row.model_copy(
        update={"data": Spec(name="shipped", params={**row.data.params, "folder": str(args.data)})}
    )
    tokenizer = load_engine(ModelConfig(name=MODEL), Spec(name="local")).tokenizer
    benchmark = make_benchmark(row, read_problems(row, "gsm8k"), tokenizer, 4096, Sampling())
    samples = {
        s["id"]: s
        for s in map(json.loads, (folder / "ours" / "samples.jsonl").read_text().splitlines())
    }
    prompts = benchmark.render([Draw(problem, 0) for problem in benchmark.problems])
    return [{**samples[p.problem.id], "prompt": p.text} for p in prompts], record


def theirs(
    args: argparse.Namespace, folder: Path, rows: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The response, the answer and the verdict of lm-eval for each problem."""
    from rlvr.models import loading as models
    from rlvr.models.locating import locate

    tasks = folder / "task"
    tasks.mkdir(parents=True, exist_ok=True)
    data = tasks / "rows.jsonl"
    kept = [{key: row[key] for key in ("id", "prompt", "gold")} for row in rows]
    data.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{gold}}",
        "generation_kwargs": {"until": ["<|im_end|>"], "do_sample": False, "max_gen_toks": args.max_tokens},
        "filter_list": [{"name": "flexible-extract", "filter": [
            {"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"},
            {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True,
                         "ignore_punctuation": False, "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]}],
    }  # fmt: skip
    (tasks / f"{TASK}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
    dtype = str(
        models.compute_dtype("auto", __import__("torch").float32, models.device_of("auto"))
    ).split(".")[-1]
    options = f"pretrained={locate(MODEL)},dtype={dtype},add_bos_token=False"
    command = [str(PEER_PYTHON), "-m", "lm_eval", "--model", "hf", "--model_args", options, "--tasks", TASK,
               "--include_path", str(tasks), "--batch_size", "8", "--device", "cpu", "--log_samples",
               "--output_path", str(folder / "theirs")]  # fmt: skip
    subprocess.run(
        command,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    latest = max(
        (folder / "theirs").rglob("samples_*.jsonl"), key=lambda path: path.stat().st_mtime
    )
    found = [json.loads(line) for line in latest.read_text(encoding="utf-8").splitlines()]
    return {
        row["doc"]["id"]: {
            "text": row["resps"][0][0], "answer": row["filtered_resps"][0], "correct": bool(row["exact_match"]),
        }
        for row in found
    }  # fmt: skip


def written(
    args: argparse.Namespace,
    rows: list[dict[str, Any]],
    verdicts: dict[str, dict[str, Any]],
    record: dict[str, Any],
) -> str:
    """The page: both scores, and a line for each problem on which they differ."""
    from importlib.metadata import version

    right = [row["status"] == "correct" for row in rows]
    peers = [verdicts[row["id"]]["correct"] for row in rows]
    same = sum(row["text"].strip() == verdicts[row["id"]]["text"].strip() for row in rows)
    low, high = (100 * edge for edge in record["ci95"]["pass@1"])
    lines = [
        "# GSM8K beside lm-eval",
        "",
        f"{MODEL}, the first {len(rows)} test problems, greedy, at most {args.max_tokens} tokens, the same prompts;"
        f" torch {version('torch')}, transformers {version('transformers')}, {PACKAGE.replace('==', ' ')}. Made by",
        f"`python bench/lm_eval.py --data ../shared/data --limit {args.limit} --max-tokens {args.max_tokens}`.",
        "",
        "| | solved |",
        "|---|---|",
        f"| rlvr | {sum(right)} of {len(rows)} ({100 * sum(right) / len(rows):.1f} % [{low:.1f}, {high:.1f}]) |",
        f"| lm-eval, flexible-extract | {sum(peers)} of {len(rows)} ({100 * sum(peers) / len(rows):.1f} %) |",
        "",
        f"Responses that are the same letter by letter: {same} of {len(rows)}. Verdicts that differ:"
        f" {sum(a != b for a, b in zip(right, peers, strict=True))}.",
    ]
    differing = [row for row, a, b in zip(rows, right, peers, strict=True) if a != b]
    if differing:
        lines += ["", "| problem | gold | rlvr | lm-eval | why |", "|---|---|---|---|---|"]
    for row in differing:
        peer = verdicts[row["id"]]
        ours_said = f"{row['status']}: {cell(row['answer'])} ({row['rule']})"
        theirs_said = f"{'right' if peer['correct'] else 'wrong'}: {cell(peer['answer'])}"
        lines.append(
            f"| {row['id']} | {row['gold']} | {ours_said} | {theirs_said} | {reason(row, peer)} |"
        )
    return "\n".join(lines) + "\n"


def cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")[:60]


def reason(row: dict[str, Any], peer: dict[str, Any]) -> str:
    """Why the verdicts differ, from what both read in the text."""
    if row["text"].strip() != peer["text"].strip():
        at = next(
            (i for i, (a, b) in enumerate(zip(row["text"], peer["text"], strict=False)) if a != b),
            None,
        )
        where = f"from letter {at}" if at is not None else "in their end"
        return f"the responses differ {where}: a near tie between two tokens, or another end of the text"
    if row["rule"].startswith("box"):
        return "lm-eval reads the last number of the text, rlvr the box"
    if row["status"] == "truncated":
        return "the response was cut off, so its last number is no answer for rlvr"
    return "the same number, which lm-eval compares by its letters and rlvr by its value"


if __name__ == "__main__":
    sys.exit(main())
