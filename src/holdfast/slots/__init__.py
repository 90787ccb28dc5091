"""Slots: things of which a machine has only so many, each held by one attempt at a time.

Owns the locks of this user on this host, who holds them, and how many are to be had; what a GPU is
called is decided here, too. A slot is free only if its lock is free *and* nothing lives that
carries the mark which its file names: what a dead shim left still uses the GPU. Attempts inherit
the locks; `holdfast.engines.local.holding` signs them and lets them go.
"""
