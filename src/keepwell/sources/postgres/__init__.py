"""PostgreSQL by pg_dump sections under one snapshot."""
