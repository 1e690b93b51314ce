"""The command `fedmq report`."""

from __future__ import annotations

from pathlib import Path

import click

from fedmq.cli.echo import echo
from fedmq.cli.options import FILE, one_thread_for_arrays, option
from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import SHARED_FILE, write_whole, writing
from fedmq.runtime.run_folder import folder_of

PAGE = "report.html"


@click.command()
@click.argument("run")
@option("-o", "--output", type=FILE, metavar="FILE", help=f"File to write. [default: {PAGE} in the run's folder]")
def report(run: str, output: Path | None) -> None:
    """Write RUN (a folder, or a name below runs) as one self-contained HTML file, for colleagues who have no fedmq.

    It shows the data that all sites have together, what was asked, and what left each site. It has figures and curves
    on held-out rows, the model, and each site's own figures where the site permits them. The run is computed again
    from its accepted results.

    \b
    Examples:
      fedmq report runs/tumor-20260101-120000-ab12
      fedmq report runs/tumor -o tumor.html
    """
    one_thread_for_arrays()
    from fedmq.runs.recount import recount
    from fedmq.runs.report import Report, read_findings, read_report
    from fedmq.runs.report_page import report_page

    folder = folder_of(run)
    found = read_report(folder)
    if found is None:
        raise BadConfiguration(f"{run}: expected a run that has ended, got none there: fedmq runs ls lists them")
    if not isinstance(found, Report):
        raise BadConfiguration(f"{run}: expected a run of this version, got one of fedmq 0.1: its figures are in JSON")
    target = output or folder / PAGE
    page = report_page(found, read_findings(folder), recount(folder)).encode()
    with writing(target, "choose another -o"):
        write_whole(target, page, mode=SHARED_FILE)
    echo(target)
