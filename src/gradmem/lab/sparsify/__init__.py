"""``gradmem sparsify``: test score against the share of channels that training made zero.

`problem` is a task with channels to lose, `methods` the optimizers, `plan` what is run, `runs` a
run and its file, `work` all of them; `findings`, `speed`, `figure` and `pages` say what came out.
"""
