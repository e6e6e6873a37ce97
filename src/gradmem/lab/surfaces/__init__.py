"""``gradmem surface``: the paths of optimizers on the standard test functions.

`surface` is the record of a function; `bowls`, `valleys`, `ripples` and `wells` hold the functions,
`table` all of them by name. `plan` is a setting, `paths` runs it and `search` finds learning rates;
`findings` puts what came out into words, `figures` and `pages` draw it, `command` is all of that.
`cli` adds it to the command line.
"""
