"""What everything stands on: errors, clock, progress, units, secrets, subprocess streams, the stream contract."""
