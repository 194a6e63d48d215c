"""A process that receives, decodes and expands batches for a trainer, off its GIL.

parent and process_prefetcher are the trainer's side of it, child its own; they talk over a socket
(channel, messages), and batches lie in memory that both map (shared_memory).
"""
