"""Tables of many runs: their rows, the runs, and the report next to the paper's figures."""
