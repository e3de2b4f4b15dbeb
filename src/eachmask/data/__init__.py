"""Disk -> Sample(image, Instances) and back: one format per file, reading and writing together."""
