"""What everything that shows an experiment shares: words, forms, evidence. It changes nothing.

The command line is built on it, and so is whatever else shows what is stored.
"""
