"""TorchRec: importing this module makes Batch one of its Pipelineables.

A BatchStream does the same by itself when its program has imported torchrec before iterating.
ImportError without torchrec.
"""

import torchrec  # type: ignore[import-not-found]  # noqa: F401 - optional, ships no types

from trainer_client.batch import register_pipelineable

register_pipelineable()
