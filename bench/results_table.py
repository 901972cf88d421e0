"""The embedded model on all benchmarks whose files are there, the first problems of each, as
docs/results.md.

    python bench/results_table.py --data ../shared/data [--limit 50] [--max-tokens 256]

Sampling is each benchmark's own (eight samples at temperature 0.6 of AIME and AMC, else greedy;
Knights and Knaves at temperature 1) but for the limit of tokens. A run that was ended goes on where
it stood.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
NAMES = ("arithmetic", "gsm8k", "math500", "aime24", "aime25", "amc23", "minerva_math", "olympiadbench", "arc_easy",
         "arc_challenge", "knights_3ppl", "knights_4ppl", "knights_5ppl", "knights_6ppl")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder with the benchmarks' files"
    )
    parser.add_argument(
        "--limit", type=int, default=50, help="the first problems of each benchmark"
    )
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--only", help="some of the benchmarks, with commas between them")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results.md")
    args = parser.parse_args()
    import rlvr

    records, absent = [], []
    for name in args.only.split(",") if args.only else NAMES:
        folder = HERE.parent / ".bench" / "results" / f"{name}-{args.limit}-{args.max_tokens}"
        asked: dict[str, Any] = {
            "limit": args.limit,
            "max_tokens": args.max_tokens,
            "data": args.data,
        }
        try:
            records += rlvr.evaluate(MODEL, [name], **asked, out=folder)
        except rlvr.UserError as error:
            if "holds no" not in str(error):
                raise
            absent.append(name)
    args.out.write_text(page(args, records, absent), encoding="utf-8")
    print(f"written to {args.out}")


def page(args: argparse.Namespace, records: list[dict[str, Any]], absent: list[str]) -> str:
    """The table as Markdown."""
    lines = [
        f"# {MODEL} on the benchmarks",
        "",
        f"The first {args.limit} problems of each, at most {args.max_tokens} tokens an answer, otherwise asked as the",
        "benchmark's row says ([evaluation.md](evaluation.md)). In brackets: 95 % intervals over problems. Made by",
        f"`python bench/results_table.py --data ../shared/data --limit {args.limit} --max-tokens {args.max_tokens}`.",
        "",
        "| benchmark | problems | samples | solved | boxed | no answer | cut off | mean tokens | math-verify differs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        metrics, counts = record["metrics"], record["counts"]
        low, high = (100 * edge for edge in record["ci95"]["pass@1"])
        shares = " | ".join(
            f"{100 * metrics[key]:.0f} %" for key in ("boxed", "no_answer", "truncated")
        )
        differ = counts["only_ours_accepts"] + counts["only_second_accepts"]
        second = f"{differ} of {counts['second_verifier']}" if counts["second_verifier"] else "-"
        lines.append(
            f"| {record['benchmark']} | {counts['problems']} | {counts['samples']} | {100 * metrics['pass@1']:.1f} %"
            f" [{low:.1f}, {high:.1f}] | {shares} | {metrics['length']:.0f} | {second} |"
        )
    if absent:
        lines += ["", f"Without a file here, and so not asked: {', '.join(absent)}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
