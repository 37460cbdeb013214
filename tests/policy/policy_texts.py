"""The smallest policy: HEAD has five lines, SOURCE three."""

HEAD = """\
version = 1
project = "Leads"
[vault]
store = "file:///var/backups/leads"
key = { file = "vault.key" }
"""
SOURCE = """\
[environments.production.sources.app]
type = "sqlite"
path = "app.db"
"""
