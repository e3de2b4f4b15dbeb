"""server: models behind HTTP, for programs that are not Python or not on this machine (extra ``serve``)."""
