"""Where Crucible meets other tools: their evaluation logs, their trackers, their test runners.

Nothing here is imported before it is used. A part needs its tool installed only where reading a file is not enough.
"""
