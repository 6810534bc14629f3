"""Makes the lock files: what pip would install for each supported Python, with the hash of every wheel.

usage: lock.py [--python 3.11 ...]

It resolves for the Python that runs it, and then asks pip for the same versions for the others. pip
downloads nothing but metadata. Run it to move to other versions, after changing WANTED.
"""

import argparse
import json
import subprocess
import sys
import tempfile

# A file for each peer, so that one which cannot be had does not keep the others away.
WANTED = {
    "vw": ["numpy==2.4.6", "vowpalwabbit==9.11.9"],
    "tensorflow": ["numpy==2.4.6", "tensorflow-cpu==2.21.0"],
    "torch": ["numpy==2.4.6", "torch==2.15.0"],
}
PYTHONS = ["3.11", "3.12", "3.13"]
# pip takes each of these for the very name, so every one is named.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


def resolve(wanted, python, constraints):
    """Name, version, hash and file name of each package."""
    with tempfile.NamedTemporaryFile("w+", suffix=".txt") as limits, tempfile.NamedTemporaryFile("r", suffix=".json") as out:
        limits.writelines(line + "\n" for line in constraints)
        limits.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary=:all:"]
        command += ["--target", tempfile.gettempdir() + "/tidemill-lock", "--python-version", python, "--report", out.name, "-c", limits.name]
        for p in PLATFORMS:
            command += ["--platform", p]
        subprocess.run([*command, *wanted], check=True)
        report = json.load(open(out.name))
    for item in report["install"]:
        hashes = item["download_info"]["archive_info"]["hashes"]
        yield item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"], hashes["sha256"]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--python", nargs="+", default=PYTHONS)
    pythons = p.parse_args().python
    chosen = {}  # by all files, which share an environment
    for name, wanted in WANTED.items():
        versions, hashes, marks = {}, {}, {}
        for python in pythons:
            for package, version, sha in resolve(wanted, python, [f"{k}=={v}" for k, v in chosen.items()]):
                versions.setdefault(package, chosen.setdefault(package, version))
                if versions[package] != version:
                    raise SystemExit(f"{package} is {versions[package]} for one Python and {version} for {python}")
                hashes.setdefault(package, set()).add(sha)
                marks.setdefault(package, []).append(python)
        with open(f"{name}.lock", "w") as out:
            out.write("# Made by lock.py for Linux on x86-64, Python " + ", ".join(pythons) + ".\n")
            for package in sorted(versions):
                only = ""
                if len(marks[package]) < len(pythons):
                    only = " ; " + " or ".join(f'python_version == "{v}"' for v in marks[package])
                out.write(f"{package}=={versions[package]}{only}")
                for sha in sorted(hashes[package]):
                    out.write(f" \\\n    --hash=sha256:{sha}")
                out.write("\n")


if __name__ == "__main__":
    main()
