"""Engines carry attempts out; `holdfast.engines.contract` is what every one of them keeps.

Nothing is imported here: what runs on a node loads only the standard library.
"""
