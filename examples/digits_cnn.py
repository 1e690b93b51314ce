"""A convolutional network of PyTorch on handwritten digits: fedmq demo examples/digits_cnn.py"""

from torch import nn

from fedmq import Task, torch_model


def cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(4, 16),  # batch norm averages badly where sites have other classes
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


task = Task(
    name="digits-cnn",
    model=torch_model(cnn, inputs=64, outputs=10),
    loss="cross-entropy",
    metric="accuracy",
    trainers=4,
    rounds=20,
    algorithm="averaging",
    parameters={"averaging": {"learner": "torch", "epochs": 2, "learning_rate": 0.02, "momentum": 0.9}},
)


def rows(part, parts):
    from sklearn.datasets import load_digits  # slow to import, and the aggregator needs no rows

    digits = load_digits()
    return digits.data[part - 1 :: parts] / 16.0, digits.target[part - 1 :: parts]
