"""The sample lead management database and its uploads: fill, let a day pass, compare. Everything from one seed."""

from keepwell.demo.days import Changes, How
from keepwell.demo.fingerprint import Fingerprint, fingerprint_folder, fingerprint_postgres, fingerprint_sqlite
from keepwell.demo.sample_postgres import change_postgres, fill_postgres
from keepwell.demo.sample_sqlite import change_sqlite, fill_sqlite
from keepwell.demo.uploads import FolderChanges, change_uploads, fill_uploads

__all__ = [
    "Changes",
    "Fingerprint",
    "FolderChanges",
    "How",
    "change_postgres",
    "change_sqlite",
    "change_uploads",
    "fill_postgres",
    "fill_sqlite",
    "fill_uploads",
    "fingerprint_folder",
    "fingerprint_postgres",
    "fingerprint_sqlite",
]
