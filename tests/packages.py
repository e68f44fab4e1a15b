"""What is installed from elsewhere: write the pins anew, list all packages, ask whether a flaw of theirs is known.

    python -m tests.packages pins         # requirements/ from setup.cfg; what is pinned stays, if setup.cfg allows
    python -m tests.packages pins all     # ... in the newest versions that setup.cfg allows
    python -m tests.packages sbom         # build/sbom: CycloneDX, of the image and of each folder of npm (npm 10)
    python -m tests.packages advisories   # what PyPI and npm know; 1 is a flaw, 3 that they cannot be asked

uv asks the index of its own settings (UV_DEFAULT_INDEX), pip and npm those of theirs.
"""

import configparser
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from services.local.stack import ROOT

PINS = ROOT / "requirements"
SBOM = ROOT / "build" / "sbom"
BIN = Path(sys.executable).parent
#: Each file of pins, and the one that it goes on from. Their names are those of extras, but for the first two.
FILES = {"build": "", "image": "build", "local": "image", "test": "local", "bench": "local", "supply": "local"}
PEER = ROOT / "bench" / "peers" / "fastapi"
BUILT_HERE = ("nameko-sqlalchemy",)  # there is no wheel of it
OLDEST_PYTHON = "3.11"
HEADER = f"""# Written by `make pins` from setup.cfg: every package, for every platform, with its hashes; nothing else
# is installed. No code of a package runs meanwhile, but that of {", ".join(BUILT_HERE)}, which has no wheel.
"""
CANNOT_BE_ASKED = 3


def direct(file: str) -> list[str]:
    """Return what a file of pins is made from: what builds the package, what it needs, or that and an extra."""
    if file == "build":
        return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"])
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    needed = config["options"]["install_requires"]
    return (needed if file == "image" else needed + config["options.extras_require"][file]).split()


def pins_in(file: Path) -> list[Requirement]:
    """Return the pins in a file, and in those that it goes on from."""
    text = file.read_text()
    further = [file.parent / name for name in re.findall(r"^-r (\S+)", text, re.MULTILINE)]
    here = [Requirement(pin) for pin in re.findall(r"^[\w.-]+==[^\\\n]+", text, re.MULTILINE)]
    return [pin for one in further for pin in pins_in(one)] + here


def versions_in(file: Path) -> dict[str, str]:
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in pins_in(file)}


def compiled(asked: Sequence[str], *options: str) -> str:
    """Return what uv makes of requirements: the versions that fit together, on each platform and Python."""
    command = [str(BIN / "uv"), "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON]
    command += ["--no-header", "--no-annotate", "--only-binary", ":all:"]
    command += [option for name in BUILT_HERE for option in ("--no-binary", name)]
    done = subprocess.run([*command, *options, "-"], input="\n".join(asked), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def write_pins(all_new: bool) -> None:
    """Write requirements/ and the pins of the peer on FastAPI."""
    together = ROOT / ".run" / "pins.txt"
    together.parent.mkdir(exist_ok=True)
    before = (
        {} if all_new else {name: version for file in PINS.glob("*.txt") for name, version in versions_in(file).items()}
    )
    together.write_text("".join(f"{name}=={version}\n" for name, version in before.items()))
    asked = [one for file in FILES for one in direct(file)]
    compiled(asked, "--output-file", str(together))  # what stands there is preferred
    options = "".join(f"--no-binary {name}\n" for name in BUILT_HERE)
    PINS.mkdir(exist_ok=True)
    written: dict[str, str] = {"": ""}
    for file, further in FILES.items():
        found = compiled(direct(file), "--generate-hashes", "--constraint", str(together))
        pins = [pin for pin in re.split(r"^(?=\S)", found, flags=re.MULTILINE) if pin not in written[further]]
        written[file] = written[further] + "".join(pins)
        goes_on = f"-r {further}.txt\n" if further else f"--only-binary :all:\n{options}"
        (PINS / f"{file}.txt").write_text(f"{HEADER}{goes_on}{''.join(pins)}")
    peer = PEER / "requirements.txt"
    before = [] if all_new else [f"{name}=={version}" for name, version in versions_in(peer).items()]
    together.write_text("\n".join(before))
    compiled((PEER / "requirements.in").read_text().split(), "--generate-hashes", "--output-file", str(together))
    peer.write_text(f"# Written by `make pins` from requirements.in.\n--only-binary :all:\n{together.read_text()}")


def npm_folders() -> list[Path]:
    found = subprocess.run(
        ["git", "ls-files", "*package-lock.json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [(ROOT / name).parent for name in found.stdout.split()]


def write_sbom() -> None:
    """Write what the image and each folder of npm bring, with versions, hashes and package URLs."""
    SBOM.mkdir(parents=True, exist_ok=True)
    image = SBOM / "image.cdx.json"
    command = [str(BIN / "cyclonedx-py"), "requirements", "--output-reproducible", "-o", str(image)]
    subprocess.run([*command, str(PINS / "image.txt")], cwd=ROOT, check=True)
    print(image.relative_to(ROOT))
    for folder in npm_folders():
        listed = SBOM / f"npm-{'-'.join(folder.relative_to(ROOT).parts)}.cdx.json"
        with listed.open("w") as output:
            npm = ["npm", "sbom", "--sbom-format", "cyclonedx", "--package-lock-only"]
            if subprocess.run(npm, cwd=folder, stdout=output).returncode:
                sys.exit("npm could not list its packages: version 10 or later is needed, as Node.js 20 brings it")
        print(listed.relative_to(ROOT))


def known_flaws_of_python() -> list[str] | None:
    """Return what PyPI knows of our pins, a line for each flaw; None if it could not be asked about all of them."""
    last = sorted(set(FILES) - set(FILES.values()))  # the others are within these
    files = [*(PINS / f"{file}.txt" for file in last), PEER / "requirements.txt"]
    flaws = set()
    for file in files:
        options = "--format json --progress-spinner off --disable-pip --require-hashes --requirement"
        command = [str(BIN / "pip-audit"), *options.split(), str(file)]
        asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        answers = json.loads(asked.stdout)["dependencies"] if asked.stdout else []
        if not answers or any("vulns" not in one for one in answers):
            return None
        flaws |= {f"{one['name']} {one['version']}: {flaw['id']}" for one in answers for flaw in one["vulns"]}
    return sorted(flaws)


def known_flaws_of_npm() -> list[str] | None:
    """Return what npm's registry knows of our lock files, a line for each package; None if it could not be asked."""
    flaws = set()
    for folder in npm_folders():
        command = ["npm", "audit", "--json", "--package-lock-only", "--audit-level=high"]
        answer = json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout or "{}")
        if "vulnerabilities" not in answer:
            return None
        found = answer["vulnerabilities"].values()
        flaws |= {
            f"{folder.name}: {one['name']}: {one['severity']}"
            for one in found
            if one["severity"] in ("high", "critical")
        }
    return sorted(flaws)


def main() -> None:
    match sys.argv[1:]:
        case ["pins", *how]:
            write_pins(all_new=how == ["all"])
        case ["sbom"]:
            write_sbom()
        case ["advisories"]:
            sys.exit(say({"PyPI": known_flaws_of_python(), "npm": known_flaws_of_npm()}))
        case _:
            sys.exit(__doc__)


def say(known: dict[str, list[str] | None]) -> int:
    """Print what the registries know, and return the code to end with."""
    for registry, flaws in known.items():
        if flaws is None:
            print(f"{registry}: its advisories cannot be reached from here, so nothing is known")
        else:
            print("\n".join([f"{registry}: {len(flaws)} known flaws", *flaws]))
    if any(known.values()):
        return 1
    return CANNOT_BE_ASKED if None in known.values() else 0


if __name__ == "__main__":
    main()
