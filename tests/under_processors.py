"""The tests that compute, under the instructions of older and newer CPUs and with one and two threads: one line each.

    python tests/under_processors.py [tests/ops ...]

oneDNN and torch are told which instructions they may use. What this machine's CPU does not have is named and left out;
for all that nobody has here, networks also compute with other last bits (``rounded_otherwise.py``).
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = (
    ("SSE41", "default", "sse4_1"),
    ("AVX2", "avx2", "avx2"),
    ("AVX512_CORE", "avx512", "avx512f"),
    ("AVX512_CORE_BF16", "avx512", "avx512_bf16"),
    ("AVX512_CORE_AMX", "avx512", "amx_bf16"),
)
"""ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY, and the flag in /proc/cpuinfo that says that the CPU can."""
HERE = Path(__file__).parent
COMPUTING = "accel backbones data evaluation inference metrics models ops parity structures tasks training".split()
"""Folders of tests."""


def main() -> int:
    """Run them all; 1 if any test failed."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    passed = True
    for (isa, capability, flag), threads in itertools.product(SETTINGS, ("1", "2")):
        name = f"{isa:<17} {threads} thread{'s' if threads != '1' else ' '}"
        if flag not in flags:
            print(f"{name}  left out: this CPU has no {flag}", flush=True)
            continue
        told = {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": threads}
        passed &= run(name, told)
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    passed &= run("rounded otherwise", {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, "-p", "rounded_otherwise")
    return int(not passed)


def run(name: str, told: dict[str, str], *options: str) -> bool:
    """Run the tests in an environment with these variables; whether all passed."""
    folders = sys.argv[1:] or [str(HERE / folder) for folder in COMPUTING]
    begin = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *folders]
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    print(f"{name}  {lines[-1]}  ({time.monotonic() - begin:.0f} s)", flush=True)
    print("".join(f"    {line}\n" for line in lines if line.startswith(("FAILED", "ERROR"))), end="", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
