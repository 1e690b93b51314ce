"""Digits at ten sites with a classifier of scikit-learn: `fit` and `evaluate` are code of each site.

fedmq demo --task examples/own_learner.py --learner examples/own_learner.py:fit
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

from fedmq import MLP, Task

CLASSES = np.arange(10)
task = Task(
    name="digits-sklearn",
    model=MLP([64, 10]),  # the same numbers as coef_ and intercept_: so fedmq can predict and export
    loss="cross-entropy",
    metric="accuracy",
    trainers=4,
    rounds=10,
    algorithm="averaging",
    parameters={"averaging": {"learner": "own", "config": {"alpha": 0.001}}},
)


def rows(part, parts):
    digits = load_digits()
    return digits.data[part - 1 :: parts] / 16.0, digits.target[part - 1 :: parts]


def classifier(parameters, alpha=0.0):
    model = SGDClassifier(loss="log_loss", alpha=alpha, learning_rate="constant", eta0=0.1)
    model.classes_ = CLASSES
    model.coef_, model.intercept_ = parameters[:640].reshape(64, 10).T.copy(), parameters[640:].copy()
    return model


def fit(parameters, data, config, rng):
    model = classifier(parameters, config["alpha"]).set_params(random_state=int(rng.integers(2**31)))
    model.partial_fit(data.inputs, data.targets, classes=CLASSES)
    trained = np.concatenate([model.coef_.T.ravel(), model.intercept_])
    return trained, len(data.targets), {"norm": float(np.linalg.norm(trained))}


def evaluate(parameters, data, config):
    model = classifier(parameters)
    loss = log_loss(data.targets, model.predict_proba(data.inputs), labels=CLASSES)
    return loss, len(data.targets), {"accuracy": model.score(data.inputs, data.targets)}
