"""The rules, as pure functions over values: no I/O, no clock, no randomness.

Wherever a decision depends on the time or on chance, both are arguments. What a rule promises is said
in the module that keeps it; ARCHITECTURE.md lists them in one place.
"""
