"""A classifier of new kinds of texts, from two examples each.

python docs/examples/own_texts.py
"""

from meta_rl.few_shot import FewShotClassifier

# "all-MiniLM-L6-v2" is better; "tfidf" needs no download.
classifier = FewShotClassifier(encoder="tfidf")
texts = ["where is my card", "my card never came", "block my card", "stop my card, it is stolen"]
classifier.fit(texts, ["find", "find", "block", "block"])
print(classifier.predict(["where is the card", "please block the stolen card"]))
print(classifier.predict_proba(["has my card come"]).round(2), classifier.classes_)
