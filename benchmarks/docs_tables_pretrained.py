"""The documentation's tables of pretrained agents and learners, from their cards."""

from __future__ import annotations

from result_files import table

from meta_rl.pretrained import Card, pretrained_card, pretrained_names


def cards() -> list[Card]:
    """The cards of all pretrained agents and learners."""
    return [pretrained_card(name) for name in pretrained_names()]


def number(card: Card, value: float) -> str:
    """A score with the digits of the card's own."""
    digits = len(card.score_text().partition(" ")[0].partition(".")[2])
    return f"{value:.{digits}f}"


def pretrained() -> list[str]:
    """The list, with the results of the cards."""
    heads = ["name", "score", "measure", "before adaptation", "this file", "trainings"]
    rows = [
        [
            f"`{card.name}`",
            card.score_text(),
            card.measure,
            "" if card.before is None else number(card, card.before),
            number(card, card.own_mean),
            str(card.num_trainings),
            str(card.num_tasks),
            card.size_text(),
        ]
        for card in cards()
    ]
    return table([*heads, "test tasks", "size"], rows)


def pretrained_trainings() -> list[str]:
    """The commands, and what else is known of the trainings."""
    heads = ["command", "length", "minutes", "commit", "processor", "licence of the data"]
    rows = [
        [
            f"`{card.command}`",
            f"{card.config['total_timesteps']:,}",
            f"{card.train_seconds / 60:.1f}",
            str(card.commit or "")[:12],
            card.processor,
            card.licence,
        ]
        for card in cards()
    ]
    return table(heads, rows)
