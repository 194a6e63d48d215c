"""Stand-ins with real behaviour: a scripted fleet, and the encoder it uses."""
