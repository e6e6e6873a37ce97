"""``gradmem bound``: a run beside the convergence theorem's bound, on problems with known L and mu.

`sources` names the problems and `problems` says what they are, `plan` the setting and what the
theorem promises for it, `simulate` runs it, `noise` is the experiment with noisy gradients,
`findings` puts what came out into words, `figures` and `pages` draw it, `command` is all of that.
"""
