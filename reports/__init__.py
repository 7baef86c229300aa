"""The page about runs: what their folders say, as tables and pictures in one HTML file."""
