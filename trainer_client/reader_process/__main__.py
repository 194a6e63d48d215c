"""python -m trainer_client.reader_process SOCKET MEMORY: a reader process, by two descriptors."""

import sys

from trainer_client.reader_process.child import main

if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
