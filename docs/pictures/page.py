"""Takes the pictures of the page with Debian's Chromium: two spirals over five trainers (`make pictures`).

Writes page.png, page-dark.png and page-phone.png next to this file.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests" / name) for name in ("browser", "integration")]

from chromium import CHROMIUM, MISSING, chromium  # noqa: E402  (they are not installed)
from playwright.sync_api import Browser  # noqa: E402
from services import Services, until  # noqa: E402

TRAINERS = {"alice": "gpu", "bob": "", "carol": "night", "dave": "", "erin": "gpu"}
ROUNDS_MIN = 60
BYTES_MAX = 300_000
SPIRALS = f"""
import numpy as np
from fedmq import MLP, Rows, Task
task = Task(
    name="spirals", model=MLP([2, 16, 2], hidden="tanh"), loss="cross-entropy", metric="accuracy", target=1.0,
    trainers={len(TRAINERS)}, rounds=400, parameters={{"evolution": {{"population": 80, "generations": 2}}}},
)
def rows(part, parts):
    generator = np.random.default_rng(part)
    classes = np.arange(300 * part) % 2
    along = generator.uniform(0.1, 1, len(classes))
    angle = along * 7.5 + classes * np.pi
    inputs = np.stack([along * np.cos(angle), along * np.sin(angle)], 1) + generator.normal(0, 0.03, (len(classes), 2))
    return Rows(inputs, classes.astype(float))
"""
PICTURES = {
    "page": {"viewport": {"width": 1360, "height": 1340}, "color_scheme": "light"},
    "page-dark": {"viewport": {"width": 1360, "height": 1340}, "color_scheme": "dark"},
    "page-phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "device_scale_factor": 2},
}


def take(browser: Browser, address: str, name: str) -> None:
    """Take one picture once the page shows ROUNDS_MIN rounds."""
    page = browser.new_page(**PICTURES[name])
    page.goto(address)
    page.wait_for_function(
        "least => Number(document.querySelector('#fitness').dataset.rounds) >= least"
        " && document.querySelector('#surface').dataset.round",
        arg=ROUNDS_MIN,
        timeout=120_000,
    )
    path = HERE / f"{name}.png"
    page.screenshot(path=path)
    page.close()
    size = path.stat().st_size
    print(f"{path.name}: {size:,} bytes")
    if size > BYTES_MAX:
        sys.exit(f"{path}: expected at most {BYTES_MAX:,} bytes, got {size:,}: make the picture smaller")


def main() -> None:
    """Start the run, and take the pictures during it."""
    if not CHROMIUM.exists():
        sys.exit(MISSING)
    with tempfile.TemporaryDirectory() as name, Services(Path(name)) as services, chromium() as browser:
        (services.folder / "spirals.py").write_text(SPIRALS)
        services.start_broker()
        run = f"spirals-{time.strftime('%Y%m%d-%H%M%S')}"
        services.start("aggregator", "aggregator", "--task", "spirals.py", "--seed", "3", "--run", run)
        for part, (trainer, label) in enumerate(TRAINERS.items(), 1):
            more = ["--labels", label] if label else []
            services.start_trainer(trainer, f"spirals.py:{part}/{len(TRAINERS)}", *more)
        services.start("dashboard", "dashboard", "--port", "0")
        until(lambda: "http://" in services.out("dashboard"), "the dashboard to print its address")
        address = next(word for word in services.out("dashboard").split() if word.startswith("http://"))
        for picture in PICTURES:
            take(browser, address, picture)


if __name__ == "__main__":
    main()
