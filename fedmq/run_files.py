"""What the files in a run's folder are called.

Knows nothing of what is in them: each is written by its own module, and read by whoever looks at a run.
"""

STORE = "store.sqlite3"
EVENTS = "events.jsonl"
REPORT = "report.json"
MODEL = "model.npz"
HISTORY = "history.csv"
