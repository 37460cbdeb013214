"""keepwell: backups that count only when they are proven."""

__version__ = "0.1.0"
