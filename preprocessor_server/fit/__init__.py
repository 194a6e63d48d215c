"""Constants of operations, found in the data: one pass over the rows, in bounded memory."""
