"""The folder of a run: files, records, progress, profiles."""
