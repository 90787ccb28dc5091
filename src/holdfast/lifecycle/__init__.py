"""The heart: two declared machines, and what an event makes of a record. No I/O, no clock.

`machines` declares what may happen, `guards` say when, `effects` what it changes. `decisions` is
the one interpreter of the three, `apply` moves a state by events, `records` are the states and
`events` what comes in and goes out.
"""
