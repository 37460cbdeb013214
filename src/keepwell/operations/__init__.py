"""One module per verb: plain functions that print nothing."""
