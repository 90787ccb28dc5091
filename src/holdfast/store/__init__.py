"""The durable store: who owns an experiment, what is recorded of it, how it is found."""
