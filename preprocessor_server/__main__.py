"""python -m preprocessor_server."""

from preprocessor_server.cli import main

main()
