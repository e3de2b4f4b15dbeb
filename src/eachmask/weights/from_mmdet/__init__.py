"""MMDetection's official checkpoints, renamed to ours: one file per family, each with a ``convert(state)``."""
