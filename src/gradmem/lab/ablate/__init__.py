"""``gradmem ablate``: what options of a memory do to the test score, at equal tuning.

One or two of them, or of what the task itself can be had at, such as the noise of its labels.

`axis` are the options and their values, `config` what is asked for, `cells` an optimizer at every
value, `plan` all of them as studies, `runs` has them carried out; `findings`, `figures` and `pages`
say what came out.
"""
