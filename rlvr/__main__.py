"""`python -m rlvr` is the command `rlvr`."""

from rlvr.cli.main import main
from rlvr.distributed.lifetime import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    raise SystemExit(main())
