"""Stack mode as a user meets it: `nameko shell`, what is on the broker, what starts again."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil

from services.local.net import wait_for
from services.local.stack import ROOT, Stack
from services.shop import module_of
from tests.books import one
from tests.client import Api


def nameko_shell(stack: Stack, *lines: str) -> str:
    shell = subprocess.run(
        [str(Path(sys.executable).parent / "nameko"), "shell", "--config", "config.yaml"],
        cwd=ROOT,
        timeout=60,
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        env={**os.environ, **stack.environment()},
    )
    assert shell.returncode == 0, shell.stderr
    return shell.stdout


def test_billing_can_be_asked_from_nameko_shell(stack: Stack, api: Api):
    user_id = api.new_user(balance=70)["id"]
    answer = nameko_shell(
        stack,
        f"print(n.rpc.billing.get_account('{user_id}'))",
        f"print(n.rpc.billing.get_account(user_id='{user_id}')['balance'] + 1)",
    )
    assert f"{{'user_id': '{user_id}', 'balance': 70}}" in answer
    assert "71" in answer


def test_a_payment_by_hand_happens_once(stack: Stack, api: Api):
    user_id, operation_id = api.new_user(balance=70)["id"], str(uuid4())
    pay = f"print(n.rpc.billing.pay(operation_id='{operation_id}', user_id='{user_id}', amount=30))"
    assert nameko_shell(stack, pay, pay).count("accepted") == 2
    assert api.balance(user_id) == 40
    forget(stack, operation_id, user_id)


def forget(stack: Stack, operation_id: str, user_id: str) -> None:
    """Take back what was paid for no order, or the books of the whole stack would tell of it."""
    one(stack, "billing", "delete from operations where id = :id returning 1", id=operation_id)
    one(stack, "billing", "update accounts set balance = 70 where user_id = :id returning 1", id=user_id)


def test_a_wrong_argument_is_named_and_changes_nothing(stack: Stack, api: Api):
    user_id = api.new_user(balance=70)["id"]
    script = [
        "def say(call, *args, **kwargs):",
        "    try:",
        "        print(call(*args, **kwargs))",
        "    except Exception as error:",
        "        print(type(error).__name__, error)",
        "",
        "say(n.rpc.billing.get_account, 'nobody')",
        f"say(n.rpc.billing.get_account, '{uuid4()}')",
        f"say(n.rpc.billing.pay, '{uuid4()}', '{user_id}', -5)",
        f"say(n.rpc.billing.pay, '{uuid4()}', '{user_id}', 1.5)",
        f"say(n.rpc.billing.pay, '{uuid4()}', '{user_id}')",
        f"say(n.rpc.billing.pay, '{uuid4()}', '{user_id}', 1, 2)",
    ]
    answer = nameko_shell(stack, *script)
    assert "InvalidArgument user_id: " in answer
    assert "AccountNotFound" in answer
    assert answer.count("InvalidArgument amount: ") == 3
    assert "InvalidArgument there are only 3 arguments: " in answer
    assert "Traceback" not in answer
    assert api.balance(user_id) == 70


def test_an_event_can_be_dispatched_by_hand(stack: Stack, api: Api):
    user_id = str(uuid4())
    nameko_shell(
        stack,
        "n.dispatch_event('users', 'user_registered', "
        f"{{'event_id': '{uuid4()}', 'user_id': '{user_id}', 'email': 'by-hand@example.com'}})",
    )
    api.post("/notifications", {"user_id": user_id, "subject": "Hello", "body": ""})
    wait_for(lambda: api.letters(user_id)[0]["email"] == "by-hand@example.com", 10, "the contact")
    one(stack, "notifications", "delete from contacts where user_id = :id returning 1", id=user_id)


def test_each_service_is_run_by_nameko(stack: Stack):
    for service in stack.ports:
        command = psutil.Process(stack.supervisor.pid(service)).cmdline()
        assert command[-4:] == ["run", "--config", "config.yaml", module_of(service, stack.style)]
        assert command[-5].endswith("nameko")


def test_a_service_that_dies_starts_again(stack: Stack, api: Api):
    for service in stack.ports:
        pid = stack.supervisor.pid(service)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda name=service, old=pid: stack.supervisor.pid(name) not in (None, old), 20, f"a new {service}")
    wait_for(stack.is_ready, 60, "all services to be ready")
    user_id = api.new_user(balance=5)["id"]
    assert api.ended_order(user_id, 5)["status"] == "paid"


def test_everything_listens_on_loopback_only(stack: Stack):
    assert stack.rabbitmq and stack.postgres
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = []
    for process in ours:
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            listening += [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert {address.port for address in listening} >= {stack.port, stack.rabbitmq.port, stack.postgres.port}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_no_log_carries_a_password(stack: Stack):
    for log in (stack.folder / "logs").iterdir():
        text = log.read_text()
        assert "guest:guest" not in text, log
