"""``gradmem inspect``: what a memory does in a real training run, step by step.

`recording` trains and records, `summary` turns records into numbers, `figures` and `pages` show
them, `command` is all of that. All but `recording` and `command` are functions of records.
"""
