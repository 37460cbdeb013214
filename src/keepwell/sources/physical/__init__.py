"""PostgreSQL, physical: the cluster's files over the replication protocol, and recovery to any moment."""
