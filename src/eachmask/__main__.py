"""``python -m eachmask`` is the program ``eachmask``."""

from __future__ import annotations

import sys

from eachmask.cli import main

sys.exit(main())
