"""The loop between the store and an engine: run, resume, interrupt, end."""
