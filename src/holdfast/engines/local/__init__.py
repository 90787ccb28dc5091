"""The engine of this machine: `engine` watches, `starter` forks, a `shim` runs one attempt.

What `starter` loads is standard library only, and loaded by file.
"""
