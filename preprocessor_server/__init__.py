"""Reads, transforms and streams recommender training data; runs on CPU nodes, keeps no state."""
