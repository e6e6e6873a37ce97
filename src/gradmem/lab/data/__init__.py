"""Readers of canonical data files, one a format; where the files are looked for, and fetched from.

`contents` unpacks and checks; `idx`, `cifar` (with `pickled`), `libsvm`, `table`, `words`, `nli`,
`glove`, `multiwoz` and `schema_guided` read a format each. `encoding` makes features of a table,
`delexicalise` puts placeholders into `dialogues`. `paths` finds the data folder, `catalogue` knows
what belongs into it, `download` brings it there, `archive` takes it out of a tar file.
"""
