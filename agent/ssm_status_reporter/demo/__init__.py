"""The demo: the main job end to end on this machine, faults included, told as it happens."""
