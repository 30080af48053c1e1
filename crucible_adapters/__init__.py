"""Where Crucible meets other tools: their evaluation logs, their trackers, their test runners.

Nothing here is imported unless it is asked for, and each part needs its tool only where no file can stand for it.
"""
