"""SQLite by its online backup."""
