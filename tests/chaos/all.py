"""All of it, with one line of JSON at the end: what was done, and how it ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    from chaos.forked import COUNTS

    status = pytest.main(["-q", "-m", "chaos", str(HERE), *sys.argv[1:]])
    ended = {"passed": status == 0} | ({"interrupted": True} if status == pytest.ExitCode.INTERRUPTED else {})
    print(json.dumps({**ended, **dict(sorted(COUNTS.items()))}))
    sys.exit(int(status))
