"""The studio: a folder of images is annotated, corrected, trained on and measured in the browser.

``eachmask studio`` serves the page of ``studio/page`` and the routes of ``studio/app.py`` on this machine alone.
"""

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)
