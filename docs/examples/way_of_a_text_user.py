"""Somebody with texts of her own: meta-train on her classes, then classify new ones."""

from meta_rl.few_shot import FewShotClassifier, FewShotTasks

VERBS = ["book", "cancel", "move", "show", "confirm", "price"]
THINGS = ["flight", "hotel", "table", "taxi", "ticket"]
FORMS = ["{} a {}", "please {} the {}", "can you {} my {}?", "I want to {} this {}", "{} {} now"]


def main(iterations: int = 100) -> float:
    """Returns the share of right answers on classes that the training has not seen."""
    texts = [form.format(v, t) for v in VERBS for t in THINGS for form in FORMS]
    labels = [f"{v}_{t}" for v in VERBS for t in THINGS for _ in FORMS]
    tasks = FewShotTasks.from_texts(texts, labels, ways=5, shots=2, queries=3)
    model = FewShotClassifier.meta_train(tasks, learner="protonet", num_iterations=iterations)
    new = ["refund a parcel", "track my parcel", "please refund the parcel", "track parcel now"]
    model.fit(new[:2], ["refund", "track"])
    model.save("texts.zip")
    answers = FewShotClassifier.load("texts.zip").predict(new[2:])
    return float((answers == ["refund", "track"]).mean())


if __name__ == "__main__":
    print(f"right answers on new classes: {main():.0%}")
