"""All of it, or the files that are named, with one line of JSON at the end: what was done, and how it ended.

    python tests/chaos/all.py [tests/chaos/test_images.py ...] [options of pytest]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    from chaos.forked import COUNTS

    words = sys.argv[1:]
    where = [] if any(Path(word).exists() for word in words) else [str(HERE)]
    status = pytest.main(["-q", "-m", "chaos", *where, *words])
    ended = {"passed": status == 0} | ({"interrupted": True} if status == pytest.ExitCode.INTERRUPTED else {})
    print(json.dumps({**ended, **dict(sorted(COUNTS.items()))}))
    sys.exit(int(status))
