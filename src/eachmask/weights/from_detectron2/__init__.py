"""Checkpoints in Detectron2's layout (and of projects built on it).

One file per family, each with ``convert(state)``.
"""
