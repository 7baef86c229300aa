"""Command lines: flags, the options made of them, exit codes."""
