"""Readers of canonical data files, one a format, and where the files are looked for."""
