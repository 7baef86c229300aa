"""Tables of many runs: what their rows vary, the runs, the report beside the paper's figures."""
