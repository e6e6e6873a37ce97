"""How good the answers of a dialogue system are: BLEU, inform and success.

BLEU is sacrebleu's. Inform and success are computed from the placeholders in the answers and from
the goals in the data, without a database: they are *not* those of MultiWOZ's evaluator, which
looks up whether the entity that is offered fits the goal.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from gradmem.lab.data.dialogues import Goal, Words

INSTALL = "BLEU needs sacrebleu: pip install 'gradmem[dialogue]'"


def bleu(answers: Sequence[Words], references: Sequence[Words]) -> float:
    """BLEU of a corpus with one reference an answer, from 0 to 100.

    The words are those given, placeholders included: nothing is cut up anew.

    >>> right = [("the", "hotel", "is", "in", "the", "[hotel_area]", ".")]
    >>> round(bleu(right, right), 6)
    100.0

    Raises:
        ImportError: sacrebleu is not installed.
    """
    if find_spec("sacrebleu") is None:
        raise ImportError(INSTALL)
    from sacrebleu.metrics.bleu import BLEU

    scored = BLEU(tokenize="none", force=True).corpus_score(
        [" ".join(each) for each in answers], [[" ".join(each) for each in references]]
    )
    return float(scored.score)


def informs(goals: Sequence[Goal], answers: Sequence[Words]) -> bool:
    """Whether the answers of a dialogue offer something of each domain that asks for an offer.

    >>> hotel = Goal(offers=frozenset({"[hotel_name]"}), requests=frozenset({"[hotel_phone]"}))
    >>> said = [("try", "[hotel_name]", ".")]
    >>> informs([hotel, Goal()], said), succeeds([hotel, Goal()], said)
    (True, False)
    """
    told = _told(answers)
    return all(not goal.offers or goal.offers & told for goal in goals)


def succeeds(goals: Sequence[Goal], answers: Sequence[Words]) -> bool:
    """Whether they do, and tell all that was requested."""
    told = _told(answers)
    return informs(goals, answers) and all(goal.requests <= told for goal in goals)


def _told(answers: Sequence[Words]) -> set[str]:
    return {word for answer in answers for word in answer if word.startswith("[")}
