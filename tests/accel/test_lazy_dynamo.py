"""torch's compiler is loaded when somebody compiles, and not before."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import numpy, torch
import eachmask
eachmask.load("objects", device="cpu").predict(numpy.zeros((64, 96, 3), numpy.uint8)).masks.to_rle()
assert not {"torch._dynamo", "scipy"} & set(sys.modules)
if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):  # torch 2.6 loads it for checkpointing too
    assert "sympy" not in sys.modules
from torchvision.ops import roi_align
assert roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 2).shape == (1, 1, 2, 2)
assert "torch._dynamo" not in sys.modules
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert compiled(torch.zeros(1)) == 1 and "torch._dynamo" in sys.modules
from eachmask.accel.lazy_dynamo import lazy_dynamo
loaded = sys.modules["torch._dynamo"]
with lazy_dynamo():
    assert sys.modules["torch._dynamo"] is loaded  # what is there stays
print("fine")
"""

WANTED = """
import sys
from eachmask.accel.lazy_dynamo import lazy_dynamo
with lazy_dynamo():
    import torch._dynamo
    from torch._dynamo.utils import is_compile_supported
    assert torch._dynamo.disable(len) is len and torch._dynamo.disable()(len) is len
    assert type(sys.modules["torch._dynamo"]).__name__ == "_Placeholder"
    assert is_compile_supported("cpu") in (True, False)  # an answer of the compiler's own
    assert torch._dynamo.config.cache_size_limit > 0
    assert type(sys.modules["torch._dynamo"]).__name__ != "_Placeholder"
assert "torch._dynamo" in sys.modules
print("fine")
"""

ROOMS = """
import pkgutil, sys
import eachmask.accel, eachmask.backbones, eachmask.ops
for room in (eachmask.accel, eachmask.ops, eachmask.backbones):
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        __import__(module.name)
assert not {"torchvision", "timm", "torch._dynamo"} & set(sys.modules)
print("fine")
"""

OTHER_VERSION = """
import sys, torch
torch.__version__ = "9.0.0+cpu"
from eachmask.accel.lazy_dynamo import lazy_dynamo, timm, torchvision
from eachmask.ops.nms import nms
with lazy_dynamo():
    assert not any(type(module).__name__ == "_Placeholder" for module in sys.modules.values())
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0]])
assert nms(boxes, torch.tensor([0.5, 0.9]), torch.zeros(2), 0.5).tolist() == [1]
assert torchvision() is sys.modules["torchvision"] and timm() is sys.modules["timm"]
assert "torch._dynamo" in sys.modules  # as these two libraries have it
print("fine")
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_predicting_loads_no_compiler_and_compiling_does():
    assert run(PROGRAM) == "fine"


def test_whoever_wants_more_of_it_gets_the_compiler():
    assert run(WANTED) == "fine"


def test_importing_the_rooms_imports_no_library_of_networks():
    assert run(ROOMS) == "fine"


def test_with_an_untested_version_of_torch_imports_are_plain():
    assert run(OTHER_VERSION) == "fine"
