"""The heart: two declared machines, and what an event makes of a record. No I/O, no clock.

`machines` declares what may happen, `guards` say when, `effects` what it changes; `machine` is what
both machines have in common, `edges` their transitions as a table. `decisions` is the one
interpreter of all these, `apply` moves a state by events. `records` are the states, `processes`
what they hold of each process, `events` what comes in and goes out, `changes` what journals keep of
it; `drafts` makes records quickly, `display` shows them in a notebook.
"""
