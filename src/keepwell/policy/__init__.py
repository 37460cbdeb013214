"""keepwell.toml: models, loading, schedules, retention."""
