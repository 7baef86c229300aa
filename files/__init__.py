"""What is read from files and written to them, whatever the arrays in them mean."""
