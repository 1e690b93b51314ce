"""Five clinics with breast cancer data, most with few patients of one kind: three algorithms.

    python examples/breast_cancer.py [ROUNDS]

Rows are split by a Dirichlet distribution, so the clinics have other sizes and other shares of benign cases. Figures
are of the quarter of the rows that is held out; `worst` is the lowest accuracy of a clinic on its own held-out rows.
"""

import sys

import fedmq

SETTINGS = {
    "newton": {"penalty": 1.0},  # logistic regression
    "boosting": {},  # gradient-boosted trees
    "averaging": {},  # a network by FedAvg
}


def main(rounds=700):
    print(f"{'':<10} {'accuracy':>8} {'AUC':>7} {'worst':>7} {'rounds':>7}  the model of one database")
    for algorithm, parameters in SETTINGS.items():
        clinics, pooled = (
            fedmq.simulate(
                "breast_cancer",
                algorithm=algorithm,
                parameters=parameters,
                trainers=trainers,
                split="dirichlet:0.3",
                holdout=0.25,
                rounds=min(rounds, 60) if algorithm == "averaging" else rounds,
                seed=1,
            )
            for trainers in (5, 1)
        )
        found, same = clinics.report.held_out, clinics.model_sha256 == pooled.model_sha256
        figures = f"{100 * found.accuracy:>7.1f}% {found.auc:>7.4f} {100 * clinics.fairness.worst:>6.1f}%"
        print(f"{algorithm:<10} {figures} {clinics.report.rounds:>7}  {'yes' if same else 'no'}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
