"""Who hears about it: health rules, the states of alerts, notifications, heartbeats, metrics."""
