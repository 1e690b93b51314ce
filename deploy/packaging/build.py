"""Build the Debian package of fedmq: a virtual environment in /opt/fedmq, the units, example settings.

    python3 deploy/packaging/build.py [--python /usr/bin/python3] [--revision 1 2 …] [--out dist]

Uses dpkg-deb, and setuptools of the Python that runs this. `--python` is the Python that the package will run on; the
package depends on exactly that minor version, because the compiled parts of numpy and pyzmq do.
"""

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
# With the extras deploy, dashboard and metrics: the host can deploy, too, and every setting of the units works.
LOCK = ROOT / "requirements.lock"
UNITS = ROOT / "deploy" / "systemd"
KEPT_COMMANDS = ("python", "python3", "fedmq")
# Folders that no service imports: tests of packages, and C headers.
LEFT_OUT = ("tests", "test", "include", "_pyinstaller", "f2py")


def main() -> None:
    """Build one package for each revision and print the paths."""
    parser = argparse.ArgumentParser(description="Build fedmq's Debian package.")
    parser.add_argument("--python", default="/usr/bin/python3", help="the Python that the package will run on")
    parser.add_argument("--revision", nargs="+", default=["1"], help="revision of the package; 2 upgrades 1")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the packages")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "deb", help="folder for the temporary tree")
    options = parser.parse_args()
    tree = options.work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    put_environment(tree, options.python, options.work)
    put_files(tree)
    for revision in options.revision:
        print(build_package(tree, options.python, f"{version()}-{revision}", options.out))


def put_environment(tree: Path, python: str, work: Path) -> None:
    """Create the virtual environment /opt/fedmq in the tree, with compiled modules and without unneeded files."""
    environment = tree / PREFIX
    wheels = work / "wheels"
    for left in (wheels, ROOT / "build" / "lib"):  # setuptools would pack modules that were deleted since
        shutil.rmtree(left, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)])
    [wheel] = wheels.glob("fedmq-*.whl")
    run([python, "-m", "venv", "--without-pip", str(environment)])
    install = [*pip, "--python", str(environment / "bin" / "python"), "install", "--no-compile"]
    run([*install, "--require-hashes", "--requirement", str(LOCK)])
    run([*install, "--no-deps", str(wheel)])
    for path in (environment / "bin").iterdir():
        if path.name not in KEPT_COMMANDS:
            path.unlink()
    for path in [path for path in environment.rglob("*") if path.name in LEFT_OUT and path.is_dir()]:
        shutil.rmtree(path, ignore_errors=True)  # its parent may be deleted already
    # The environment is built here and will be installed at /opt/fedmq.
    command = environment / "bin" / "fedmq"
    lines = command.read_text().splitlines(keepends=True)
    command.write_text("".join([f"#!/{PREFIX}/bin/python\n", *lines[1:]]))
    settings = environment / "pyvenv.cfg"
    kept = [line for line in settings.read_text().splitlines(keepends=True) if not line.startswith("command")]
    settings.write_text("".join(kept))
    # Unchecked: dpkg changes no module, and no service may write the caches.
    library = f"/{PREFIX}/lib"
    compile_all = ["-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"]
    run([python, *compile_all, "-s", str(environment / "lib"), "-p", library, str(environment / "lib")])


def put_files(tree: Path) -> None:
    """Copy the units, the command in /usr/bin, and the settings, which are conffiles."""
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.target")]:
        put(unit, tree / "usr/lib/systemd/system" / unit.name)
    for name in ("broker.toml", "aggregator.toml", "dashboard.toml"):
        put(UNITS / name, tree / "etc/fedmq" / name)
    put(UNITS / "trainer.toml", tree / "usr/share/doc/fedmq/examples/trainer.toml")
    put(ROOT / "LICENSE", tree / "usr/share/doc/fedmq/copyright")
    (tree / "etc/credstore").mkdir(mode=0o700)  # trainers' keys, for LoadCredential=
    command = tree / "usr/bin/fedmq"
    command.parent.mkdir(parents=True)
    command.symlink_to(f"/{PREFIX}/bin/fedmq")


def put(source: Path, target: Path) -> None:
    """Copy a file, readable by all users."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def build_package(tree: Path, python: str, full_version: str, out: Path) -> Path:
    """Build one package of the tree and return its path."""
    control = tree / "DEBIAN"
    shutil.rmtree(control, ignore_errors=True)
    control.mkdir()
    architecture = output_of(["dpkg", "--print-architecture"])
    minor = int(output_of([python, "-c", "import sys; print(sys.version_info.minor)"]))
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
    # gzip: every Python can read it; level 4 is much faster than 9 and nearly as small
    run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z4", "--build", str(tree), str(package)])
    return package


def version() -> str:
    """Return the version in setup.cfg."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["metadata"]["version"]


def run(command: list[str]) -> None:
    """Run a command silently; if it fails, exit with its output."""
    # pip would take modules on our PYTHONPATH for installed already.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        sys.exit(f"build.py: {' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def output_of(command: list[str]) -> str:
    """Return the output of a command."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    os.umask(0o022)
    main()
