"""Every exportable variant x runtime as tests/exporting/test_matrix.py tries it: a table in docs/exporting.md.

A case that was run, by the table, is not run again, so that the whole can be run in slices. Each case is one test:
written, and compared with the model at three sizes, one and two at a time, and without objects.

    python benchmarks/exported.py                                # all that is left
    python benchmarks/exported.py mask2former_lite0-onnx -sam    # cases whose names hold one of these words
    python benchmarks/exported.py --page                         # only write the table

A case is called VARIANT-RUNTIME. The last line is JSON: how many cases are ``equal``, ``refused`` (one sentence, no
file), ``different``, and ``untried``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eachmask.structures import UserError

ROOT = Path(__file__).resolve().parents[1]
MATRIX = ROOT / "tests/exporting/test_matrix.py"
ROWS = ROOT / "results/exported.jsonl"
PAGE = ROOT / "docs/exporting.md"
START, END = "<!-- written by benchmarks/exported.py -->", "<!-- end of what it wrote -->"
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "torch-export": "torch.export"}
WORDS = {"equal": "equal", "refused": "refused", "different": "**differs**", "untried": "not run"}


def rows() -> dict[str, dict[str, Any]]:
    """Case -> what became of it, by the page's table, and by what was run since."""
    found = dict[str, dict[str, Any]]()
    for line in PAGE.read_text().partition(START)[2].partition(END)[0].splitlines():
        variant, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        for runtime, cell in zip(RUNTIMES, cells, strict=False):
            if cell in ("equal", "refused"):
                found[f"{variant}-{runtime}"] = {"outcome": cell, "why": ""}
    lines = ROWS.read_text().splitlines() if ROWS.is_file() else []
    return found | {row["case"]: row for row in map(json.loads, lines)}


class Recorder:
    """A plugin of pytest that runs what is left, and writes a row for each case."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.done, self.cases = words, rows(), list[tuple[str, str]]()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        tried = [item for item in items if {"case", "runtime"} <= getattr(item, "callspec", _NONE).params.keys()]
        self.cases = [_parts(item) for item in tried]
        items[:] = [item for item in tried if self._is_wanted("-".join(_parts(item)))]

    def _is_wanted(self, case: str) -> bool:
        return case not in self.done and (not self.words or any(word in case for word in self.words))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Any:
        begin, outcome, why = time.process_time(), "equal", ""
        try:
            return (yield)
        except UserError as error:
            outcome, why = "refused", str(error)
            raise
        except Exception as error:
            outcome, why = "different", f"{type(error).__name__}: {error}".splitlines()[0]
            raise
        except BaseException:  # skipped, or stopped
            outcome = ""
            raise
        finally:
            if outcome:
                seconds = round(time.process_time() - begin, 1)
                self._note({"case": "-".join(_parts(item)), "outcome": outcome, "why": why, "cpu_s": seconds})

    def _note(self, row: dict[str, Any]) -> None:
        ROWS.parent.mkdir(exist_ok=True)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")


class _NONE:
    params: dict[str, Any] = {}  # noqa: RUF012


def _parts(item: Any) -> tuple[str, str]:
    return item.callspec.params["case"].variant, item.callspec.params["runtime"]


def page(cases: list[tuple[str, str]], done: dict[str, dict[str, Any]]) -> str:
    """A row for each variant of which something was run, the names of the others, and why some are refused."""
    lines = ["| variant |" + "".join(f" {name} |" for name in RUNTIMES.values()), "|---" * (1 + len(RUNTIMES)) + "|"]
    left = []
    for variant in dict.fromkeys(variant for variant, _ in cases):
        outcomes = [done.get(f"{variant}-{runtime}", {"outcome": "untried"})["outcome"] for runtime in RUNTIMES]
        if {*outcomes} == {"untried"}:
            left.append(f"`{variant}`")
        else:
            lines.append(f"| `{variant}` | {' | '.join(WORDS[outcome] for outcome in outcomes)} |")
    others = f"\nNot run: {', '.join(left)}." if left else ""
    sentences = dict.fromkeys(row["why"] for row in done.values() if row["outcome"] == "refused" and row["why"])
    return "\n".join([*lines, others, *(f"- {sentence}" for sentence in sentences)]).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    recorder = Recorder(options.words)
    run = ["--collect-only"] if options.page else ["--tb=line", "--durations=5"]
    pytest.main([str(MATRIX), "-q", "-m", "slow or not slow", "-p", "no:cacheprovider", *run], plugins=[recorder])
    done = rows()
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(f"{before}{START}\n{page(recorder.cases, done)}\n{END}{rest.partition(END)[2]}")
    counts = Counter(done.get("-".join(case), {"outcome": "untried"})["outcome"] for case in recorder.cases)
    print(json.dumps({outcome: counts[outcome] for outcome in WORDS}))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    main()
