"""The preflight: does this machine have what the daemon needs? One finding for each thing, with its remedy.

It looks and asks; it changes nothing, neither here nor at the service.
"""
