"""File formats: reading and writing arrays, whatever they mean."""
