"""``eachmask serve``: models behind HTTP."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eachmask.files.text import say
from eachmask.structures.errors import UserError

if TYPE_CHECKING:
    from eachmask.server.settings import ServerSettings


KEEP_SECONDS = 65
"""An idle connection stays open: longer than clients and proxies keep theirs (5 to 60 s), who could otherwise send a
request into one that is just being closed."""


@dataclass(frozen=True)
class ServeOptions:
    """Serve models over HTTP: images in, masks out, prompts in sessions (extra `serve`).

    Listens on this machine alone unless --host says otherwise. Every request shows a key: those of --keys, the one in
    the environment variable EACHMASK_KEY, or else one that is made up and printed. The page at / lists the routes.
    Ctrl-C or SIGTERM ends it once running requests are answered.

    Examples:
      eachmask serve nuclei
      eachmask serve objects clicks --port 9000 --workers 2
      eachmask serve runs/mine --host 0.0.0.0 --keys keys.txt --certificate server.pem --private-key server.key
      curl -H "Authorization: Bearer KEY" --data-binary @cells.png http://127.0.0.1:8000/predict
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ...")]
    """Names of models, .safetensors files or run folders; the first one answers where a request names none."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is all of this machine."""
    port: int = 8000
    """Port to listen on."""
    names: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Names under which clients address this server; others are refused. By default localhost alone, or any name with
    a --host that others reach."""
    keys: Path | None = None
    """File of keys, one per line."""
    workers: int = 1
    """More than one: so many processes with all models each; one that dies is started anew."""
    certificate: Path | None = None
    """Certificate chain (PEM) for https."""
    private_key: Path | None = None
    """Its private key (PEM)."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""
    precision: str = "auto"
    """fp32, bf16, fp16 or auto."""
    max_mb: float = 20.0
    """Largest request, MB."""
    max_megapixels: float = 50.0
    """Largest image, megapixels."""
    queue: int = 64
    """Requests that may wait; more are told to come back later."""
    seconds: float = 60.0
    """Longest time to an answer."""
    batch: int = 4
    """Images that go through a network together at most; each needs its memory. More than 4 serve GPUs alone."""


def serve(options: ServeOptions) -> int:
    """Run the command; returns the exit status."""
    settings = settings_of(options)
    _check(options)
    import uvicorn

    from eachmask.server.app import create_app
    from eachmask.server.workers import workers_of

    workers = workers_of(settings, options.workers)
    workers[0].load()  # a wrong name is said, and weights are downloaded, before anything listens
    _say_where(options, settings)
    try:
        uvicorn.run(
            create_app(settings, workers),
            host=options.host,
            port=options.port,
            ssl_certfile=options.certificate,
            ssl_keyfile=options.private_key,
            access_log=False,
            log_config=_log_config(),
            server_header=False,
            timeout_keep_alive=KEEP_SECONDS,
            timeout_graceful_shutdown=round(options.seconds),
            limit_concurrency=4 * options.queue,
        )
    finally:
        for worker in workers:
            worker.end()
    return 0


def settings_of(options: ServeOptions) -> ServerSettings:
    """What the options mean.

    Raises:
        UserError: a bound that makes no sense, no readable keys, or the extra is not installed.
    """
    from eachmask.server.settings import LOOPBACK, Limits, ServerSettings, is_loopback, new_key, read_keys
    from eachmask.structures.checks import check_number, check_whole

    for name in ("workers", "queue", "batch"):
        check_whole(f"--{name}", getattr(options, name), 1)
    for name in ("max_mb", "max_megapixels", "seconds"):
        check_number(f"--{name.replace('_', '-')}", getattr(options, name), 0.001)
    shown = os.environ.get("EACHMASK_KEY")
    keys = read_keys(options.keys) if options.keys else (shown or new_key(),)
    names = options.names or (LOOPBACK if is_loopback(options.host) else ())
    limits = Limits(
        max_bytes=round(options.max_mb * 1e6),
        max_pixels=round(options.max_megapixels * 1e6),
        queue=options.queue,
        seconds=options.seconds,
        batch=options.batch,
    )
    return ServerSettings(
        options.models, keys, device=options.device, precision=options.precision, hosts=names, limits=limits
    )


def _check(options: ServeOptions) -> None:
    """What would end in a traceback later."""
    from importlib.util import find_spec

    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]:
        raise UserError(f"serving needs {', '.join(missing)}: pip install 'eachmask[serve]'")
    if (options.certificate is None) != (options.private_key is None):
        raise UserError("https needs both --certificate and --private-key")
    if options.certificate and options.private_key:
        _check_certificate(options.certificate, options.private_key)
    _check_port(options.host, options.port)


def _check_certificate(certificate: Path, key: Path) -> None:
    import ssl

    for path in (certificate, key):
        if not path.is_file():
            raise UserError(f"{path} is no file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError:  # SSLError is one
        wanted = "a certificate and its private key, both PEM, the key without a password"
        raise UserError(f"{certificate} and {key} are not {wanted}") from None


def _check_port(host: str, port: int) -> None:
    import socket

    if not 0 < port < 65536:
        raise UserError(f"--port is a number from 1 to 65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(f"cannot listen on {host}, port {port} ({error.strerror or error}): choose another") from None


def _say_where(options: ServeOptions, settings: ServerSettings) -> None:
    scheme = "https" if options.certificate else "http"
    say(f"{', '.join(options.models)} at {scheme}://{options.host}:{options.port}/")
    if options.keys:
        say(f"Keys: those in {options.keys}")
    elif "EACHMASK_KEY" not in os.environ:
        say(f"Key: {settings.keys[0]}")


def _log_config() -> dict[str, object]:
    """One JSON line per request on standard error; words of the server itself beside them."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "loggers": {
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            "eachmask.server": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        },
    }
