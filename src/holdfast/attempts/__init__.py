"""One run of one command: its names, its files, and what can be known and done about it.

`names` says what everything is called, `files` reads and links, `family` finds the processes that
belong to an attempt, `looking` tells what became of one and touches nothing, `settling` acts.
"""
