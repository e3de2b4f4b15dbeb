"""All of it, or a share, with one line of JSON at the end: what was done, and how it ended.

    python tests/chaos/all.py [--every 11] [tests/chaos/test_images.py ...] [options of pytest]

``--every`` runs every so many of the seeds. What is damaged, and how, goes round with them: a prime number meets all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    from chaos.forked import COUNTS, EVERY

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--every", default="1")
    known, words = parser.parse_known_args()
    os.environ[EVERY] = known.every
    where = [] if any(Path(word).exists() for word in words) else [str(HERE)]
    status = pytest.main(["-q", "-m", "chaos", *where, *words])
    ended = {"passed": status == 0} | ({"interrupted": True} if status == pytest.ExitCode.INTERRUPTED else {})
    print(json.dumps({**ended, **dict(sorted(COUNTS.items()))}))
    sys.exit(int(status))
