"""A task for tables with the columns temperature, vibration and fails (0 or 1): will this pump fail?"""

from fedmq import MLP, Task

task = Task(
    name="pumps",
    model=MLP([2, 6, 2], hidden="tanh", output="softmax"),
    loss="cross-entropy",
    metric="accuracy",
    target=0.95,
    trainers=2,
)
