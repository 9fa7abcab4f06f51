"""The machine: its clocks, its service manager, its identity, its journal."""
