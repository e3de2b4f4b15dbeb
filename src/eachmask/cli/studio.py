"""``eachmask studio``: a folder of images, annotated and learnt from in the browser."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eachmask.cli.before_loading import class_of
from eachmask.files.text import counted, say
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.data.problems import Problem

HOST = "127.0.0.1"
SHOWN = 5
"""Problems of the annotations that are told when the studio starts."""


@dataclass(frozen=True)
class StudioOptions:
    """Annotate, correct, train and measure in the browser (extra `studio`).

    Prints a link that opens once, on this machine alone; nothing leaves it. Every action is in a journal on the disk
    (.eachmask-studio in the folder) before it is answered, so that nothing is lost if the studio is killed; started
    again it is as it was, and all can be undone. Saving writes the annotations in the chosen format.

    Examples:
      eachmask studio photos/
      eachmask studio cells/ --labels cells/annotations --model nuclei
      eachmask studio slides/ --pixel-size 0.25
      eachmask studio clip.mp4
      eachmask studio --sample
    """

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of images, stacks and videos, with its subfolders; or a file in it, such as a video, to begin with."""
    labels: Path | None = None
    """Annotations, a folder or a file in any format that `eachmask convert` reads; by default `annotations` in the
    folder, in COCO's format."""
    model: str | None = None
    """Model that proposes objects: a name, a file or a run folder."""
    clicks: str = "clicks"
    """Model that answers clicks."""
    pixel_size: float | None = None
    """Micrometers per pixel, where the files do not say it: the table of measures is then in micrometers too."""
    port: int = 8765
    """Port to listen on; 0 takes a free one."""
    browser: bool = True
    """Open the link in the browser."""
    sample: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Work on sample images that installed packages carry, copied to studio-sample unless a folder is named."""


def studio(options: StudioOptions) -> int:
    """Run the command; returns the exit status."""
    folder, first = _checked(options), None
    if folder.is_file():
        folder, first = folder.parent, folder
    import uvicorn

    from eachmask.studio.app import Studio, create_app
    from eachmask.studio.clicks import Clicks
    from eachmask.studio.project import Project
    from eachmask.studio.sample import sample_folder

    if options.sample:
        sample_folder(folder)
    project = Project(folder, options.labels)
    _tell(project.problems)
    begin = "" if first is None else f"#{project.place_of(first)}"
    with _listening(options.port) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        key = os.environ.get("EACHMASK_KEY", "")
        made = Studio(
            project, model=options.model, clicks=Clicks(options.clicks), key=key, pixel_size=options.pixel_size,
            on_link=lambda token: say(f"For another browser: {address}?token={token}{begin}"),
        )  # fmt: skip
        link = f"{address}?token={made.token}{begin}"
        say(f"{counted(len(project.items), 'image')} in {folder}. The link opens once: {link}")
        if options.browser:
            import webbrowser

            webbrowser.open(link)
        config = uvicorn.Config(create_app(made), log_level="warning", server_header=False, timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _tell(problems: Sequence[Problem]) -> None:
    """What could not be used of the annotations, or was guessed: the worst first, and not all where they are many."""
    from eachmask.data.problems import gravity

    worst = sorted(problems, key=gravity)
    for problem in worst[:SHOWN]:
        say(f"{problem.severity}: {problem}")
    if len(worst) > SHOWN:
        say(f"... and {len(worst) - SHOWN} more: eachmask doctor names them all")


def _listening(port: int) -> socket.socket:
    """A socket of TCP by name: only then does asyncio send what is written without waiting for more, which costs up to
    40 ms an answer.

    Raises:
        UserError: the port is taken.
    """
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise UserError(f"cannot listen on port {port} ({error.strerror}): choose another --port") from None
    return listening


def _checked(options: StudioOptions) -> Path:
    """The folder.

    Raises:
        UserError: none is named, no such port, or the extra is not installed.
    """
    from importlib.util import find_spec

    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"the studio needs {' and '.join(missing)}: pip install 'eachmask[studio]'")
    if not 0 <= options.port < 65536:
        raise UserError(f"--port is a number from 0 to 65535, not {options.port}")
    if options.pixel_size is not None and not 0 < options.pixel_size < float("inf"):
        raise UserError(f"--pixel-size must be above 0, not {options.pixel_size:g}")
    if options.folder is None and not options.sample:
        raise UserError("name a folder of images, or try --sample")
    _check_models(options.clicks, options.model)
    return options.folder or Path("studio-sample")


def _check_models(clicks: str, model: str | None) -> None:
    """What is wrong with the models is said at once, and not only at the first click.

    Raises:
        UserError: there is no such model, the one takes no prompts, or the other finds no objects by itself.
    """
    from eachmask.models.protocol import Promptable
    from eachmask.tasks.instances import INSTANCES

    asked, proposer = class_of(clicks), None if model is None else class_of(model)
    if asked is not None and not issubclass(asked, Promptable):
        raise UserError(f"{clicks} takes no prompts: choose one such as clicks; --model names what proposes objects")
    if proposer is None:
        return
    if getattr(proposer, "answers_only", False) and not hasattr(proposer, "at_points"):
        raise UserError(f"{model} answers prompts alone: name it as --clicks, and as --model one such as objects")
    if proposer.task is not INSTANCES:
        raise UserError(f"{model} finds no single objects: choose a model such as objects or nuclei")
