"""Datasets as people write them: YAML with the place of everything in it, every mistake found."""
