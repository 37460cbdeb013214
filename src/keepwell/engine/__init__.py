"""What runs by itself: schedules, queues and the fleet. The only place that knows DBOS."""
