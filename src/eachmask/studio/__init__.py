"""The studio: a folder of images is annotated, corrected, trained on and measured in the browser.

``eachmask studio`` serves the page of ``studio/page`` and the routes of ``studio/app.py`` on this machine alone.
"""
