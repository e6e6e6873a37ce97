"""Readers of canonical data files, one a format; where the files are looked for, and fetched from.

`contents` unpacks and checks, `idx`, `libsvm` and `table` read a format each, `encoding` makes
features of a table. `paths` finds the data folder, `catalogue` knows what belongs into it,
`download` brings it there.
"""
