"""Builds the Debian package of fedmq: its own virtual environment in /opt/fedmq, the units, example settings.

    python3 deploy/packaging/build.py [--python /usr/bin/python3] [--revision 1 2 …] [--out dist]

Plain dpkg-deb. Runs on the Python of any machine; `--python` is the one that the package will run on, and the package
depends on just that minor version, because numpy's and pyzmq's compiled parts do. Knows nothing of other machines.
"""

from __future__ import annotations

import argparse
import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PREFIX = Path("opt/fedmq")
EXTRAS = "deploy,dashboard,metrics"  # it can deploy further, and all that its units may be set to runs
UNITS = ROOT / "deploy" / "systemd"
KEPT_COMMANDS = ("python", "python3", "fedmq")
# What no service imports: the tests that packages ship, and headers to compile against.
LEFT_OUT = ("tests", "test", "include", "_pyinstaller", "f2py")


def main() -> None:
    """Build one package for each revision; their paths are printed."""
    parser = argparse.ArgumentParser(description="Build fedmq's Debian package.")
    parser.add_argument("--python", default="/usr/bin/python3", help="the Python that the package will run on")
    parser.add_argument("--revision", nargs="+", default=["1"], help="of the package; 2 upgrades 1")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the packages go")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "deb", help="where the tree is put together")
    options = parser.parse_args()
    tree = options.work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    put_environment(tree, options.python, options.work)
    put_files(tree)
    for revision in options.revision:
        print(pack(tree, options.python, f"{version()}-{revision}", options.out))


def put_environment(tree: Path, python: str, work: Path) -> None:
    """The virtual environment at /opt/fedmq of the tree, with compiled modules and without what nobody needs."""
    environment = tree / PREFIX
    wheels = work / "wheels"
    for left in (wheels, ROOT / "build" / "lib"):  # setuptools would pack a module of before that is no more
        shutil.rmtree(left, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)])
    [wheel] = wheels.glob("fedmq-*.whl")
    run([python, "-m", "venv", "--without-pip", str(environment)])
    lock = str(ROOT / "requirements.lock")
    install = ["install", "--no-compile", "--constraint", lock, f"{wheel}[{EXTRAS}]"]
    run([*pip, "--python", str(environment / "bin" / "python"), *install])
    for path in (environment / "bin").iterdir():
        if path.name not in KEPT_COMMANDS:
            path.unlink()
    for path in [path for path in environment.rglob("*") if path.name in LEFT_OUT and path.is_dir()]:
        shutil.rmtree(path, ignore_errors=True)  # may lie in one that is gone already
    # The environment was put together here and will be there.
    command = environment / "bin" / "fedmq"
    lines = command.read_text().splitlines(keepends=True)
    command.write_text("".join([f"#!/{PREFIX}/bin/python\n", *lines[1:]]))
    settings = environment / "pyvenv.cfg"
    kept = [line for line in settings.read_text().splitlines(keepends=True) if not line.startswith("command")]
    settings.write_text("".join(kept))
    # By content, not by time: what dpkg unpacks is never compiled again, and no service could write it anyway.
    library = f"/{PREFIX}/lib"
    compile_all = ["-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"]
    run([python, *compile_all, "-s", str(environment / "lib"), "-p", library, str(environment / "lib")])


def put_files(tree: Path) -> None:
    """The units, the command on everybody's path, and the settings, which stay the administrator's."""
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.target")]:
        put(unit, tree / "usr/lib/systemd/system" / unit.name)
    for name in ("broker.toml", "aggregator.toml", "dashboard.toml"):
        put(UNITS / name, tree / "etc/fedmq" / name)
    put(UNITS / "trainer.toml", tree / "usr/share/doc/fedmq/examples/trainer.toml")
    put(ROOT / "LICENSE", tree / "usr/share/doc/fedmq/copyright")
    (tree / "etc/credstore").mkdir(mode=0o700)  # for trainers' keys; systemd hands them out
    command = tree / "usr/bin/fedmq"
    command.parent.mkdir(parents=True)
    command.symlink_to(f"/{PREFIX}/bin/fedmq")


def put(source: Path, target: Path) -> None:
    """A copy that everybody can read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def pack(tree: Path, python: str, full_version: str, out: Path) -> Path:
    """One package of the tree; its path."""
    control = tree / "DEBIAN"
    shutil.rmtree(control, ignore_errors=True)
    control.mkdir()
    architecture = said_by(["dpkg", "--print-architecture"])
    minor = int(said_by([python, "-c", "import sys; print(sys.version_info.minor)"]))
    size_kb = sum(path.lstat().st_size for path in tree.rglob("*") if not path.is_dir()) >> 10
    template = (HERE / "debian" / "control").read_text()
    text = template.format(
        version=full_version, architecture=architecture, size_kb=size_kb, minor=minor, next_minor=minor + 1
    )
    (control / "control").write_text(text)
    conffiles = sorted(f"/{path.relative_to(tree)}\n" for path in (tree / "etc").rglob("*.toml"))
    (control / "conffiles").write_text("".join(conffiles))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / "debian" / name, control / name)
        (control / name).chmod(0o755)
    package = out / f"fedmq_{full_version}_{architecture}.deb"
    # gzip, so that every Python can read the package's fields, at a level that costs seconds less than it saves bytes
    run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z4", "--build", str(tree), str(package)])
    return package


def version() -> str:
    """The version in setup.cfg."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["metadata"]["version"]


def run(command: list[str]) -> None:
    """Run a command, silent; end with what it said when it fails."""
    # What lies on our path of modules is not what the package is to have: pip would take it for installed already.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        sys.exit(f"build.py: {' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def said_by(command: list[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    os.umask(0o022)
    main()
