"""What the report says beside its numbers."""

from gradmem.lab.compare import FIRST_EVALUATION_SEED
from gradmem.lab.findings import Findings
from gradmem.lab.score import caveat
from gradmem.lab.statistics import TAU

SCORES_NOTE = "Mean ± half the width of the 95% interval over the seeds."
STANDING_NOTE = (
    "Rank: by test score on each seed, 1 for the best, equal scores sharing theirs; the mean over "
    "the seeds. Steps and time are to the end of the first epoch whose validation score is as good "
    "as the target; a missed target counts as infinite. Profile: the area under the performance "
    f"profile up to {TAU:g} times the best; 1 is always the fastest, 0 never within that."
)
COST_NOTE = (
    "Times are forward, backward and update on one thread, as ratios to the base's in the same "
    "comparison; a small network makes a step mostly overhead, so the ratio is at its largest here."
)
SETTINGS_NOTE = (
    "A memory variant pays for its extra dimensions out of the same number of trials. A best "
    "setting at an end of its space is warned of above. `sum` adds stored gradients to the current "
    "one, so where the step grows with the gradient it is larger at the same learning rate, with "
    "kappa 1 twice as large: the default spaces of the bases therefore reach to twice the learning "
    "rate, and a warning says so where a variant went beyond what its base was tried at."
)
SENSITIVITY_NOTE = (
    "Over all trials, whatever their other options; ranges are cut in three on their own scale. "
    "With few trials a value, a difference is luck as easily as the option's doing."
)
REPEAT = "gradmem compare --config config.toml --out repeated"
REPEAT_NOTE = (
    "With these versions, the file below and the data it names; every number but the times is then "
    "the same on the same kind of machine:"
)
NO_CONFIG = "The options this was made with are not at hand."


def concluded(found: Findings) -> str:
    """What can be concluded."""
    return found.headline


def not_concluded(found: Findings) -> str:
    """What cannot."""
    return caveat(found.comparison, found.differences)


def comparison_note(found: Findings) -> str:
    """How the table of pairs is to be read."""
    count = len(found.differences)
    together = (
        f" The {count} intervals hold together (Bonferroni), and p is corrected for their number "
        "(Holm)."
        if count > 1
        else ""
    )
    return (
        "Paired by seed. The interval is a percentile bootstrap over the seeds, widened as their "
        "number asks for, and Student's where they are too few for one. The corrected p is "
        "that of Welch's test, or of Wilcoxon's signed-rank test where the scores do not vary or "
        f"are infinite.{together} Better or worse needs a corrected p below .05 and an interval "
        "without zero. Wilcoxon's test cannot get below .05 with fewer than six seeds."
    )


def tally(found: Findings) -> str:
    """Wins, ties and losses of all pairs."""
    outcomes = [each.outcome for each in found.differences if len(each.by_seed) > 1]
    if not outcomes:
        return ""
    wins, ties, losses = (outcomes.count(kind) for kind in ("win", "tie", "loss"))
    whom = "the base" if found.differences[0].variant.base else "the first named"
    return f"Win / tie / loss against {whom}: {wins} / {ties} / {losses}."


def method_sentences(found: Findings) -> list[str]:
    """The protocol, so that the page can be judged by itself."""
    plan = found.comparison.plan
    first = FIRST_EVALUATION_SEED
    return [
        f"Task: {plan.task.title}. {plan.epochs} epochs, batches of {plan.examples_a_step}, "
        "constant learning rate. The split into training, validation and test is fixed.",
        f"Tuning: {plan.trials} {_search(found)} for every optimizer, the same number whether its "
        "space is small or large; a memory variant searches its base's space and the memory's "
        f"options on top. The setting with the lowest validation loss{_tuning_seeds(found)} wins.",
        f"Evaluation: fresh seeds {first} to {first + plan.seeds - 1} at that setting. The test "
        "split is read once a run, with the weights of the epoch of lowest validation loss. A run "
        "that diverges, crashes or runs out of time counts with the worst score.",
        "Means carry Student's 95% intervals over the seeds; what a figure shows is said under it.",
    ]


def _search(found: Findings) -> str:
    search = found.comparison.plan.search
    if search.sampler == "halton":
        return f"quasi-random setting{'s' * (found.comparison.plan.trials > 1)}"
    return f"settings of Optuna's TPE, the first {search.startup} of them quasi-random,"


def _tuning_seeds(found: Findings) -> str:
    seeds = found.comparison.plan.tuning_seeds
    return f", the mean over {seeds} seeds," if seeds > 1 else ""


def size(found: Findings) -> str:
    """The size of the comparison, in a line."""
    plan = found.comparison.plan
    return (
        f"{plan.task.title} · {plan.trials} tuning trial{'s' if plan.trials > 1 else ''} and "
        f"{plan.seeds} fresh seed{'s' if plan.seeds > 1 else ''} each"
    )
