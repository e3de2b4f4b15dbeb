"""The command line: thin commands over the same functions that Python users call.

A command is a module here with an options dataclass (its docstrings are the help text) and a function from it to an
exit status. Only the command that runs is imported, so that ``eachmask --help`` answers at once.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": ("eachmask.cli.demo", "DemoOptions", "demo", "find the objects in images that are here already"),
    "predict": ("eachmask.cli.predict", "PredictOptions", "predict", "find the objects in images"),
    "segment": ("eachmask.cli.segment", "SegmentOptions", "segment", "the objects that clicks, boxes or words mean"),
    "matte": ("eachmask.cli.matte", "MatteOptions", "matte", "cut out with soft edges: hair, fur, glass"),
    "track": ("eachmask.cli.track", "TrackOptions", "track", "follow the objects of a video"),
    "label": ("eachmask.cli.label", "LabelOptions", "label", "annotations that nobody has to draw, and what to review"),
    "train": ("eachmask.cli.train", "TrainOptions", "train", "train a model by a recipe on annotated images"),
    "evaluate": ("eachmask.cli.evaluate", "EvaluateOptions", "evaluate", "measure a model or its predictions"),
    "convert": ("eachmask.cli.convert", "ConvertOptions", "convert", "annotations from one format to another"),
    "link": ("eachmask.cli.link", "LinkOptions", "link", "objects over the pages of stacks and time series"),
    "doctor": ("eachmask.cli.doctor", "DoctorOptions", "doctor", "find what is wrong with a data set"),
    "export": ("eachmask.cli.export", "ExportOptions", "export", "a model as a file that other runtimes run"),
    "import": (
        "eachmask.cli.import_weights",
        "ImportOptions",
        "import_weights",
        "a checkpoint of another project as a model file",
    ),
    "serve": ("eachmask.cli.serve", "ServeOptions", "serve", "models behind HTTP, for other programs"),
    "studio": ("eachmask.cli.studio", "StudioOptions", "studio", "annotate, correct, train and measure in the browser"),
    "models": ("eachmask.cli.models", "ModelsOptions", "list_models", "list what can be loaded by name"),
    "show": ("eachmask.cli.show", "ShowOptions", "show", "print a model's card and settings"),
}
"""Command -> module, options class, function, summary."""

HELP = f"""usage: eachmask COMMAND [OPTIONS]

One mask for each object.

commands:
{chr(10).join(f"  {name:<10} {row[3]}" for name, row in COMMANDS.items())}

  eachmask COMMAND --help says more, with examples; eachmask --version says which version this is.

exit status:
  0 all done; 1 done in part, the command says what is missing; 2 a mistake in the call or in
  a file, explained in a sentence; 130 interrupted
"""

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)
_OF_A_PATH = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""A file stands where a folder is wanted or the other way round, a name is too long, links lead round."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (the program ``eachmask``) and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        from eachmask import __version__

        print(f"eachmask {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        near = difflib.get_close_matches(arguments[0], COMMANDS, n=1) or list(COMMANDS)
        return _fail(f"there is no command {arguments[0]!r}; did you mean {' or '.join(near)}?")
    return _run(arguments[0], arguments[1:])


def _run(name: str, arguments: Sequence[str]) -> int:
    from eachmask.accel.spinning import sleep_soon
    from eachmask.cli.arguments import parse

    sleep_soon()
    module_name, options_class, function, _ = COMMANDS[name]
    try:
        module = importlib.import_module(module_name)
        options = parse(getattr(module, options_class), f"eachmask {name}", arguments)
        status: int = getattr(module, function)(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as error:
        print(f"eachmask: {str(error) or 'interrupted; what is done is kept'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_DISK + _OF_A_PATH:
            raise
        return _fail(f"{error.filename2 or error.filename or 'the disk'}: {error.strerror}")
    except (MemoryError, RuntimeError) as error:
        from eachmask.inference.failures import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        needs_less = "smaller images, a smaller --batch or another --device need less"
        return _fail(f"{name} needs more memory than there is: {needs_less}")
    except ValueError as error:
        from eachmask.structures.errors import UserError  # late, because it brings torch in

        if not isinstance(error, UserError):
            raise
        return _fail(str(error))


def _fail(sentence: str) -> int:
    from eachmask.files.text import printable

    print(f"eachmask: {printable(sentence)}", file=sys.stderr)
    return 2
