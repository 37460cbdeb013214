"""What is compared, where, and the record of it."""
