"""The command line: thin commands over the same functions that Python users call.

A command is a module here with an options dataclass (its docstrings are the help text) and a function from it to an exit
status. Only the command that runs is imported, so that ``eachmask --help`` answers at once.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence

COMMANDS = {
    "predict": ("eachmask.cli.predict", "PredictOptions", "predict", "find the objects in pictures"),
    "train": ("eachmask.cli.train", "TrainOptions", "train", "train a model by a recipe on annotated images"),
    "evaluate": ("eachmask.cli.evaluate", "EvaluateOptions", "evaluate", "measure a model or its predictions"),
    "convert": ("eachmask.cli.convert", "ConvertOptions", "convert", "annotations from one format to another"),
    "doctor": ("eachmask.cli.doctor", "DoctorOptions", "doctor", "find what is wrong with a data set"),
    "models": ("eachmask.cli.models", "ModelsOptions", "list_models", "list what can be loaded by name"),
    "show": ("eachmask.cli.models", "ShowOptions", "show", "print a model's card and settings"),
}
"""Command -> module, options class, function, summary."""

HELP = f"""usage: eachmask COMMAND [OPTIONS]

One mask for each object.

commands:
{chr(10).join(f"  {name:<10} {row[3]}" for name, row in COMMANDS.items())}

  eachmask COMMAND --help says more, with examples.

exit status:
  0 all done; 1 done in part, the command says what is missing; 2 a mistake in the call or in
  a file, explained in a sentence; 130 interrupted
"""


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
        print(f"eachmask: there is no command {arguments[0]!r}: choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(arguments[0], arguments[1:])


def _run(name: str, arguments: Sequence[str]) -> int:
    import tyro

    from eachmask.structures.errors import UserError

    module_name, options_class, function, _ = COMMANDS[name]
    try:
        module = importlib.import_module(module_name)
        options_type = getattr(module, options_class)
        # tyro on its own would leave out a docstring's examples.
        about = inspect.getdoc(options_type)
        options = tyro.cli(options_type, prog=f"eachmask {name}", description=about, args=arguments)
        status: int = getattr(module, function)(options)
        return status
    except UserError as error:
        print(f"eachmask: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("eachmask: interrupted; what is done is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 0
