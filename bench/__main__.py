"""Every benchmark after the other, each in a process of its own:   python bench [NAME …]   (make
bench)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ALL = ("generation", "update", "step", "growth", "start", "verify", "flips")


def main() -> None:
    chosen = sys.argv[1:] or list(ALL)
    unknown = [name for name in chosen if name not in ALL]
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")
    failed = [
        name
        for name in chosen
        if subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py"))]).returncode
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
