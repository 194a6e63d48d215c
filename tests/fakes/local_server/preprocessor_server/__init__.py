"""Put first on PYTHONPATH, stands in for the server: starts at once, has no data."""
