"""What the system lacks is found at once, installed where we may, and named in one line each elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.local import installing, needs
from services.local.needs import OF, RABBITMQ, VENV, Need, NotInstalled, ensure
from services.local.postgres import NOBODY
from services.local.stack import ROOT

FAKE_APT_GET = """#!/bin/sh
echo "$*" >> {folder}/calls
echo "$DEBIAN_FRONTEND" >> {folder}/frontend
cat {folder}/policy-rc.d >> {folder}/policy_seen 2>/dev/null
[ "$5" = update ] && exit {update}
if [ {install} = 0 ]; then
  printf '#!/bin/sh\\n' > {folder}/rabbitmq-server && chmod +x {folder}/rabbitmq-server
  : > {folder}/units/multi-user.target.wants/rabbitmq-server.service
  : > {folder}/units/multi-user.target.wants/nginx.service
  : > {folder}/units/multi-user.target.wants/other.service
fi
echo "E: no such package"
exit {install}
"""
FAKE_HELPER = '#!/bin/sh\n[ $DPKG_MAINTSCRIPT_PACKAGE ] && echo "$*" >> {folder}/disabled\n'


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without RabbitMQ, with an apt-get that only pretends; returns its folder of programs."""
    monkeypatch.setattr(needs, "DEBIAN_SCRIPT", tmp_path / "nowhere")
    monkeypatch.setattr(needs, "ALSO_LOOK_IN", ())
    monkeypatch.setattr(needs, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(needs, "UNITS", tmp_path / "units")
    monkeypatch.setattr(needs, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(needs, "_as_root", lambda: [])
    (tmp_path / "units" / "multi-user.target.wants").mkdir(parents=True)
    for program in ("env", "sh", "cat", "chmod", "install", "rm"):
        (tmp_path / program).symlink_to(f"/bin/{program}")
    script(tmp_path / "deb-systemd-helper", FAKE_HELPER.format(folder=tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def pretend_apt_get(folder: Path, update: int = 0, install: int = 0) -> None:
    script(folder / "apt-get", FAKE_APT_GET.format(folder=folder, update=update, install=install))


def test_what_is_missing_is_installed_and_its_service_neither_started_nor_enabled(debian):
    pretend_apt_get(debian, update=100)  # one broken source of many is no reason to give up
    ensure([RABBITMQ])
    calls = (debian / "calls").read_text().splitlines()
    assert [call.split("Status-Fd=1 ")[1] for call in calls] == [
        "update",
        "install -y --no-install-recommends rabbitmq-server",
    ]
    assert set((debian / "frontend").read_text().split()) == {"noninteractive"}
    assert "exit 101" in (debian / "policy_seen").read_text()
    assert not (debian / "policy-rc.d").exists()
    assert (debian / "disabled").read_text() == "disable nginx.service\ndisable rabbitmq-server.service\n"


def test_a_policy_and_a_service_that_were_there_are_left_alone(debian):
    pretend_apt_get(debian)
    (debian / "policy-rc.d").write_text("theirs")
    for service in ("rabbitmq-server.service", "nginx.service"):
        (debian / "units" / "multi-user.target.wants" / service).touch()
    ensure([RABBITMQ])
    assert (debian / "policy-rc.d").read_text() == "theirs"
    assert not (debian / "disabled").exists()


def test_a_failed_installation_says_what_to_do_and_why(debian):
    pretend_apt_get(debian, install=100)
    with pytest.raises(NotInstalled, match="(?s)apt-get install rabbitmq-server.*apt-install.log.*no such package"):
        ensure([RABBITMQ])
    assert not (debian / "policy-rc.d").exists()


@pytest.mark.parametrize("as_root", [None, []])  # no rights; rights, but no apt-get
def test_all_that_is_missing_is_said_at_once_with_a_line_each(debian, monkeypatch, as_root):
    monkeypatch.setattr(needs, "_as_root", lambda: as_root)
    with pytest.raises(NotInstalled) as missing:
        ensure([VENV, Need("Python's moon", lambda: False, ("python3-moon",)), *OF["test"][2:]])
    assert str(missing.value).splitlines() == [
        "Python's moon is missing: sudo apt-get install python3-moon (Debian, Ubuntu)",
        "RabbitMQ is missing: sudo apt-get install rabbitmq-server (Debian, Ubuntu) or "
        "sudo dnf install rabbitmq-server (Fedora) or brew install rabbitmq (macOS)",
        "nginx is missing: sudo apt-get install nginx-light (Debian, Ubuntu) or "
        "sudo dnf install nginx (Fedora) or brew install nginx (macOS)",
        "PgBouncer is missing: sudo apt-get install pgbouncer (Debian, Ubuntu) or "
        "sudo dnf install pgbouncer (Fedora) or brew install pgbouncer (macOS)",
        "npm, with Node.js 18 or later, is missing: sudo apt-get install nodejs npm (Debian, Ubuntu) or "
        "https://nodejs.org",
        "All at once: sudo apt-get install python3-moon rabbitmq-server nginx-light pgbouncer nodejs npm",
    ]


def test_an_old_node_is_named_before_anything_is_installed(debian):
    pretend_apt_get(debian)
    script(debian / "node", "#!/bin/sh\necho v16.20.2\n")
    script(debian / "npm", "#!/bin/sh\n")
    with pytest.raises(NotInstalled, match=r"^Node.js 18 or later is missing: https://nodejs.org$"):
        ensure(OF["npm"])
    assert not (debian / "calls").exists()


def test_nothing_is_asked_of_a_system_that_has_all(debian):
    script(debian / "node", "#!/bin/sh\necho v18.20.4\n")
    script(debian / "npm", "#!/bin/sh\n")
    ensure(OF["npm"])


def test_the_needs_are_found_by_a_python_that_has_no_packages():
    found = subprocess.run(
        [sys.executable, "-S", "-E", "-m", "services.local.needs", "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_an_installer_says_how_far_it_is_and_at_its_end_how_long_it_took(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(installing, "EVERY_S", 0.2)
    go = tmp_path / "go"
    waits = f"echo one; while ! [ -e {go} ]; do sleep 0.05; done"

    def how_far(output: str) -> str:
        if "one" in output:
            go.touch()
        return f"{len(output.split())} of 1"

    installing.watched("it", ["sh", "-c", waits], tmp_path / "logs" / "it.log", how_far)
    first, *others, last = capfd.readouterr().out.splitlines()
    assert first == "Installing it..."
    assert others[-1].startswith("it: 1 of 1, ")
    assert last.startswith("it: done in ")
    assert (tmp_path / "logs" / "it.log").read_text() == "one\n"


def test_a_failed_installer_shows_the_end_of_its_output(tmp_path):
    with pytest.raises(installing.Failed) as failed:
        installing.watched("it", ["sh", "-c", "seq 100; exit 7"], tmp_path / "it.log", str)
    first, *lines = str(failed.value).splitlines()
    assert first == f"it: failed with code 7; the end of {tmp_path / 'it.log'}:"
    assert lines == [str(number) for number in range(81, 101)]


def test_a_folder_of_another_user_is_named(tmp_path):
    tmp_path.chmod(0o500)
    prefix: list[str] = []
    if os.geteuid() == 0:  # then it is another's, and we are a root that may not look away from that
        os.chown(tmp_path, NOBODY, NOBODY)
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    script = (
        "from pathlib import Path; from services.local import installing; "
        f"installing.LOGS = Path({str(tmp_path / 'setup')!r}); installing.main()"
    )
    refused = subprocess.run(
        [*prefix, sys.executable, "-c", script, "pip", "local"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"{tmp_path / 'setup'}: Permission denied. If another user made it, remove it with sudo\n"
