"""The server's application as a deployment of Ray Serve: replicas on the machines of a cluster instead of workers.

    from ray import serve

    serve.run(deployment(ServerSettings(("nuclei",), (key,), hosts=()), replicas=8), route_prefix="/")

Needs ``pip install 'ray[serve]'``. Ray starts replicas anew and shares requests out among them; each has the models, a
queue and the guard, so that bounds and keys hold as they do without Ray.
"""

from __future__ import annotations

from typing import Any

from eachmask.server.settings import ServerSettings
from eachmask.structures import UserError


def deployment(settings: ServerSettings, replicas: int = 1, **wishes: Any) -> Any:
    """What ``ray.serve.run`` takes.

    Args:
        settings: of each replica; sessions need a folder of embeddings that all machines see.
        replicas: processes with all models each.
        wishes: further arguments of ``ray.serve.deployment``, such as ``ray_actor_options`` (by default one CPU).

    Raises:
        UserError: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError:
        raise UserError("Ray Serve is not installed: pip install 'ray[serve]' 'eachmask[serve]'") from None

    def app() -> Any:  # called where a replica begins; Ray accepts no other kind of callable
        from eachmask.server.app import create_app

        return create_app(settings)

    room = 2 * (settings.limits.queue + settings.limits.batch)  # the server itself refuses what does not fit
    made: Any = serve.deployment(serve.ingress(app)())
    return made.options(**{"num_replicas": replicas, "max_ongoing_requests": room, "name": "eachmask"} | wishes).bind()
