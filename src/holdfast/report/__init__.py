"""One page that shows an experiment: its data, bounded in size, and the file made of it.

Reads the store as every view does: no lock, while it runs, after a crash, from another host.
"""
