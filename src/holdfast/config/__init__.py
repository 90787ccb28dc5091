"""The experiment file: what is written there, and what it means."""
