"""What was recorded as an HTML page, Markdown and pictures: pure functions."""

import html
import math
from collections.abc import Container, Iterator, Sequence
from operator import itemgetter

from gradmem.lab import markup
from gradmem.lab.drawing import panel, picture, slim
from gradmem.lab.findings import Table
from gradmem.lab.memory import figures
from gradmem.lab.memory.figures import Evictions, Panel
from gradmem.lab.memory.recording import Plan, Run
from gradmem.lab.memory.summary import Summary, summarise

SENTENCES = 3  # one for each run, if there are no more
SCOPES_SHOWN = 40  # rows of a table, if every tensor has a ledger


def title(plan: Plan) -> str:
    """What the page is about."""
    return f"The memory of {plan.optimizer} on {plan.task.name}"


def subtitle(plan: Plan, runs: Sequence[Run]) -> str:
    """How much was recorded."""
    steps = sum(max((record.call for record in run.records), default=0) for run in runs)
    count = "one run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{plan.task.title} · {count}, {steps:,} steps, each recorded · seed {plan.seed}"


def verdicts(runs: Sequence[Run]) -> list[str]:
    """What the first ledger of each run did, or of the first and how far the others went."""
    found = [(run, summarise(run.records)[0]) for run in runs]
    if len(found) <= SENTENCES:
        return [f"{run.label}: {_sentence(each)}" for run, each in found]
    first, each = found[0]
    return [f"{first.label}: {_sentence(each)}", *_ranges(found)]


def _ranges(found: Sequence[tuple[Run, Summary]]) -> Iterator[str]:
    """From the run with the least to that with the most."""
    shares = [(each.accepted_share, run.label) for run, each in found]
    cosines = [(each.cosine, run.label) for run, each in found]
    for what, numbers, show in (
        ("Gradients that entered", shares, _share),
        ("Mean cosine of gradient and update", cosines, lambda cosine: _number(cosine, 2)),
    ):
        (low, one), (high, other) = (pick(numbers, key=itemgetter(0)) for pick in (min, max))
        yield f"{what}: from {show(low)} ({one}) to {show(high)} ({other})."


def _sentence(found: Summary) -> str:
    said = f"{_share(found.accepted_share)} of the gradients entered the memory"
    if found.left:
        said += (
            f"; half of those that left it did so by age {found.median:.0f}, nine in ten by "
            f"{found.late:.0f} (fifo: {found.capacity})"
        )
    said += f". {_share(found.recent)} of what was used, fifo would have held too"
    if math.isfinite(found.cosine):
        said += f"; the cosine of gradient and update was {found.cosine:.2f} on average"
    return said + "."


def warnings(runs: Sequence[Run]) -> list[str]:
    """What a reader has to know before believing a number."""
    ends = {
        "interrupted": "was interrupted; what was recorded until then is shown",
        "diverged": "diverged: a loss was NaN or infinite",
    }
    return [f"{run.label}: the run {ends[run.end]}" for run in runs if run.end in ends]


def table(runs: Sequence[Run]) -> Table:
    """A row for each run and, if there are several, each ledger."""
    heading = (
        *("capacity, decay", "ledger", "steps", "entered", "age at eviction", "oldest used"),
        *("also in fifo", "cosine", "lowest", "|g| / stored"),
    )
    rows = [_row(run, found) for run in runs for found in summarise(run.records)[:SCOPES_SHOWN]]
    return _columns(Table(heading, tuple(rows)), without=() if _several_ledgers(runs) else (1,))


def short_table(runs: Sequence[Run]) -> Table:
    """The columns that fit the terminal."""
    whole = table(runs)
    return _columns(whole, without=range(len(whole.heading) - 2, len(whole.heading)))


def _columns(table: Table, without: Container[int]) -> Table:
    """The table without some columns."""
    heading, *rows = (
        tuple(cell for i, cell in enumerate(row) if i not in without)
        for row in (table.heading, *table.rows)
    )
    return Table(heading, tuple(rows))


def _row(run: Run, found: Summary) -> tuple[str, ...]:
    ages = (found.early, found.median, found.late)
    return (
        f"{run.capacity}, {run.decay:g}",
        found.scope,
        f"{found.steps:,}",
        _share(found.accepted_share),
        " / ".join(_number(age, 0) for age in ages) if found.left else "-",
        f"{found.oldest:,}",
        _share(found.recent),
        *(_number(value, 2) for value in (found.cosine, found.lowest_cosine, found.ratio)),
    )


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if math.isfinite(value) else "-"


def _share(value: float) -> str:
    """In percent; 100% and 0% are all and none."""
    if not math.isfinite(value):
        return "-"
    shown = f"{value:.0%}"
    if (shown == "100%" and value < 1) or (shown == "0%" and value > 0):
        return f"{value:.2%}"
    return shown


def _several_ledgers(runs: Sequence[Run]) -> bool:
    return len({record.scope for run in runs for record in run.records}) > 1


def settings(plan: Plan) -> Table:
    """What was trained."""
    rows = [
        ("task", plan.task.name),
        ("optimizer", plan.optimizer),
        ("capacity", ", ".join(map(str, plan.capacities))),
        ("decay", ", ".join(f"{decay:g}" for decay in plan.decays)),
        *((name, str(value)) for name, value in plan.options.items()),
        ("epochs", str(plan.epochs_each)),
        ("examples a step", str(plan.batch)),
        ("seed", str(plan.seed)),
    ]
    return Table(("", "value"), tuple(rows))


def method() -> list[str]:
    """What the numbers mean."""
    return [
        "Every number is of a step as the optimizer took it: gradmem.Recorder hooks onto it and "
        "changes no bit. records.jsonl has a line for every step; gradmem.Recorder.read reads it.",
        "Age counts steps: a gradient has age 1 in the first update after the one it came with. "
        "Age at eviction is that at which another took its place; fifo's is always the capacity.",
        "The update is what the base rule gets in place of the gradient g; the cosine is that of "
        "the angle between the two. Stored: the mean norm of the gradients in memory.",
    ]


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Heading, drawing and caption: a map of each run, ages, and curves of the first run."""
    return [*_map_panels(runs), _age_panel(runs), *_curve_panels(runs[0], several=len(runs) > 1)]


def _map_panels(runs: Sequence[Run]) -> list[Panel]:
    scope = next((record.scope for run in runs for record in run.records), "")
    which = f" The ledger is {scope}." if _several_ledgers(runs) else ""
    caption = (
        "Ink: share of the gradients of that age that were held. Below the dashed line is what "
        f"fifo would hold.{which}"
    )
    oldest = max(found.oldest for run in runs for found in summarise(run.records)[:1])
    return [
        (
            "what lies in memory" + (f": {run.label}" if len(runs) > 1 else ""),
            figures.map_drawing(run.records, oldest=oldest),
            "" if i else caption,
        )
        for i, run in enumerate(runs)
    ]


def _age_panel(runs: Sequence[Run]) -> Panel:
    return (
        "age at eviction",
        figures.eviction_drawing([Evictions(r.decay, r.capacity, r.records) for r in runs]),
        "Dot: the median; thick: from 10% to 90%; thin: all. Dashed: fifo. Where nothing is drawn, "
        "nothing had to go.",
    )


def _curve_panels(run: Run, *, several: bool) -> list[Panel]:
    of = f": {run.label}" if several else ""
    return [
        (
            "norms" + of,
            figures.norms_drawing(run.records),
            "Of the gradient, and the mean of those in memory.",
        ),
        (
            "accepted share" + of,
            figures.acceptance_drawing(run.records),
            "Of so many steps as each stretch is long, the share whose gradient entered.",
        ),
        (
            "cosine of gradient and update" + of,
            figures.cosine_drawing(run.records),
            "1: the memory changes no direction. Where a point stands for several steps, it is "
            "their median, and the band goes from their 10% to their 90%.",
        ),
    ]


def as_html(plan: Plan, runs: Sequence[Run]) -> str:
    """One file: no script, nothing fetched, light and dark."""
    said = verdicts(runs)
    shown = (
        markup.figure(heading[0].upper() + heading[1:], slim(panel(draw)), caption)
        for heading, draw, caption in panels(runs)
    )
    warned = "".join(f'<p class="warning">{html.escape(line)}.</p>' for line in warnings(runs))
    return markup.page(
        title=html.escape(title(plan)),
        subtitle=html.escape(subtitle(plan, runs)),
        verdict=markup.paragraphs(said[:1], "<strong>", "</strong>") + markup.paragraphs(said[1:]),
        warnings=warned,
        scores=markup.html_table(table(runs)),
        scores_note=html.escape(_note(runs)),
        legend="",
        figures="".join(shown),
        settings=markup.html_table(settings(plan), text_columns=(1,)),
        settings_note="",
        memory="",
        method=markup.paragraphs(method()),
    )


def _note(runs: Sequence[Run]) -> str:
    """How to read the table."""
    note = (
        "Age at eviction: 10%, 50% and 90% of those that left did so by these ages. Also in fifo: "
        "share of the gradients used that were among the last, as many as the capacity."
    )
    ledgers = max((len(summarise(run.records)) for run in runs), default=0)
    if ledgers > SCOPES_SHOWN:
        note += f" The first {SCOPES_SHOWN} of {ledgers} ledgers; the records have all."
    return note


def as_markdown(plan: Plan, runs: Sequence[Run]) -> str:
    """The page as text, with the pictures that lie beside it."""
    parts = [f"# {title(plan)}", subtitle(plan, runs) + ".", *warnings(runs), *verdicts(runs)]
    parts += [f"![{heading}]({name})" for name, heading in PICTURES.items()]
    parts += ["## Results", markup.markdown_table(table(runs)), _note(runs)]
    parts += ["## Settings", markup.markdown_table(settings(plan))]
    parts += ["## How this was made", *method()]
    return "\n\n".join(part for part in parts if part) + "\n"


PICTURES = {
    "map.svg": "What lies in memory, by step",
    "ages.svg": "Age at eviction, and the share of gradients accepted",
    "curves.svg": "Norms, and the cosine of gradient and update",
}


def pictures(runs: Sequence[Run]) -> dict[str, str]:
    """SVGs for a page of one's own, by the name of their file."""
    *maps, ages, norms, share, cosine = ((heading, draw) for heading, draw, _ in panels(runs))
    groups = (maps[:3], (ages, share), (norms, cosine))
    return {name: slim(picture(group)) for name, group in zip(PICTURES, groups, strict=True)}
