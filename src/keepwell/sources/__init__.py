"""What can be protected; every source has the same function names."""
