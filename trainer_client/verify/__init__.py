"""Whether two runs trained on the same bytes, and whether a run trained on every row once."""
