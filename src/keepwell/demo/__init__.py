"""The sample lead management database and the story told with it."""
