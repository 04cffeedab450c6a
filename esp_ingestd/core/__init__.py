"""The pure core: nothing in here waits, logs, does I/O or reads a clock."""
