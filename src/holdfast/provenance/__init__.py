"""What code a process ran with: files that its command names, git, Python. No store, no lifecycle.

`naming` finds the files in a command, `digests` hashes and remembers them, `interpreter` tells the
version of its Python, `git` asks git, `code` makes the record of all that and stores it.
"""
