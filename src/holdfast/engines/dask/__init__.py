"""The engine of a Dask cluster: `link` asks its scheduler, `tasks` is what its workers run.

Importing `distributed` takes more than half a second, so nothing here does before it is needed.
"""
