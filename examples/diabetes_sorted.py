"""Where averaging fails: diabetes of 442 patients, sorted by how far the disease went, so that sites differ.

    python examples/diabetes_sorted.py [ROUNDS]

Each site has a quarter of the patients: the mildest, the mild, the severe, the severest. The table has R² on the
quarter of the rows that is held out, with four such sites, and with all rows at one. Averaged models forget what the
others know. Sums of slopes or of products are those of all rows, so the split does not matter.
"""

import sys

import fedmq

SETTINGS = {
    "averaging": ("averaging", {}),
    "averaging, scaffold": ("averaging", {"method": "scaffold"}),
    "es": ("es", {}),
    "ridge": ("ridge", {}),
}


def main(rounds=40):
    print(f"{'R² on held-out rows':<22} {'four sites':>10} {'one site':>10}  the same model")
    for name, (algorithm, parameters) in SETTINGS.items():
        four, one = (
            fedmq.simulate(
                "diabetes",
                algorithm=algorithm,
                parameters=parameters,
                trainers=sites,
                split="sorted:target",
                holdout=0.25,
                rounds=rounds,
                seed=1,
            )
            for sites in (4, 1)
        )
        figures = "".join(f" {run.report.held_out.r2:>10.2f}" for run in (four, one))
        print(f"{name:<22}{figures}  {'yes' if four.model_sha256 == one.model_sha256 else 'no'}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
