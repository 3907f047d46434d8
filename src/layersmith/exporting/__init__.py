"""A model in another runtime's format: written by that runtime's own tools, proved against the model, timed beside it.

targets/       one file a format: what it can express, how it is written, how it is run again
expressible.py what stands in the graph for parts that round (int8 where the format has it, floats when asked)
proof.py       outputs of the written file against the model's, and both on one clock
"""
