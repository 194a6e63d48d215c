"""The source code of functions, packed so that servers can run it: text, never a pickle."""

from trainer_client.upload.archive import ArchivedModule, PackedFunction, Text
from trainer_client.upload.packing import UnpackableError, pack

__all__ = ["ArchivedModule", "PackedFunction", "Text", "UnpackableError", "pack"]
