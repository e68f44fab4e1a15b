"""What the servers can do: our own SQL of one order by pgbench, and confirmed messages a second."""

import os
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from kombu import Connection, Queue

from bench.contenders import MONEY, USERS, Servers, connect, seconds_of
from services.billing.domain import REVENUE, OperationKind
from services.billing.store import MOVE
from services.contracts import OrderPaid, Outcome
from services.kit.amqp.message import Message
from services.kit.amqp.publisher import ConfirmedChannel
from services.kit.amqp.transport import JSON, AmqpTransport
from services.kit.db.session import BY_INDEX, as_options
from services.kit.db.statements import PreparedStatement
from services.kit.outbox.statements import MARK_PUBLISHED
from services.local.net import HOST
from services.local.postgres import USER, program
from services.notifications.domain import LetterKind, paid_letter
from services.notifications.store import ADD_LETTERS
from services.ops.migrate import upgrade
from services.orders.domain import OrderStatus
from services.orders.store import CLAIM, END

SQL_BATCHES = (1, 10)  # orders a statement: services that are busy put several into one
PUBLISH_BATCHES = (1, 10, 100)  # messages between two waits for the confirms
CONFIRM_S = 30
EVENT = OrderPaid(order_id=UUID(int=1), user_id=UUID(int=1), price=1)
SUBJECT, BODY = paid_letter(EVENT)


def ids(variable: str, batch: int) -> str:
    """Return the SQL of an array of ids that follow on a random number of pgbench."""
    return f"array(select lpad(to_hex(:{variable}::bigint + i), 32, '0')::uuid from generate_series(1, {batch}) as i)"


def user_ids(batch: int) -> str:
    return (
        f"array(select lpad(to_hex((:user::bigint + i) % {USERS}), 32, '0')::uuid"
        f" from generate_series(1, {batch}) as i)"
    )


def same(value: str, type_: str, batch: int) -> str:
    return f"array_fill({value}::{type_}, array[{batch}])"


def statement(prepared: PreparedStatement, **values: str) -> str:
    """Return the text of a prepared statement, with the SQL of each parameter. pgbench prepares it again."""
    sql = prepared.prepare.partition(" as ")[2]
    given = {name.replace("__", "."): value for name, value in values.items()}
    return re.sub(r"\$(\d+)", lambda match: given[prepared.parameters[int(match[1]) - 1]], sql).strip() + ";\n"


def scripts(batch: int) -> dict[str, str]:
    """Return, for each database, what `batch` orders do there, as a script of pgbench."""
    order_ids, event_ids, users = ids("order", batch), ids("event", batch), user_ids(batch)
    prices, pause = same("1", "bigint", batch), "interval '15 s'"
    nothing = same("null", "text", batch)
    names = "".join(f"\\set {name} random(1, 9000000000000000000)\n" for name in ("order", "event"))
    names += f"\\set user random(0, {USERS - 1})\n"
    return {
        "orders": names
        + statement(
            CLAIM.statement,
            requests__id=order_ids,
            requests__request_id=event_ids,
            requests__idempotency_key=nothing,
            requests__user_id=users,
            requests__price=prices,
            requests__promised=same("false", "boolean", batch),
            requests__traceparent=nothing,
            retry_after=pause,
        )
        + statement(
            END,
            ended__id=order_ids,
            ended__status=same(f"'{OrderStatus.PAID}'", "text", batch),
            ended__reason=nothing,
            events__row_id=order_ids,
            events__outcome=nothing,
            events__event_id=event_ids,
            events__type=same(f"'{EVENT.TYPE}'", "text", batch),
            events__body=same(f"'{EVENT.model_dump_json()}'", "text", batch),
            events__traceparent=nothing,
            lease=pause,
        )
        + statement(MARK_PUBLISHED, event_ids=event_ids, transport=f"'{AmqpTransport.name}'"),
        "billing": names
        + statement(
            MOVE,
            movements__id=order_ids,
            movements__idempotency_key=nothing,
            movements__kind=same(f"'{OperationKind.PAYMENT}'", "text", batch),
            movements__user_id=users,
            movements__amount=prices,
            movements__debit=f"{users}::text[]",
            movements__credit=same(f"'{REVENUE}'", "text", batch),
            movements__change=same("-1", "bigint", batch),
        ),
        "notifications": names
        + statement(
            ADD_LETTERS,
            letters__id=event_ids,
            letters__event_id=event_ids,
            letters__order_id=order_ids,
            letters__user_id=users,
            letters__kind=same(f"'{LetterKind.ORDER_PAID}'", "text", batch),
            letters__subject=same(f"'{SUBJECT}'", "text", batch),
            letters__body=same(f"'{BODY}'", "text", batch),
        ),
    }


def sql_limits(servers: Servers, clients: Iterable[int], seconds: float) -> list[dict[str, Any]]:
    """Measure the orders a second and the CPU milliseconds an order of each database when it does nothing else."""
    databases = {service: f"limit_{service}" for service in scripts(1)}
    servers.postgres.ensure_databases(databases.values())
    for service, database in databases.items():
        upgrade(service, servers.postgres.url(database))
    connection = connect(servers.postgres.url(databases["billing"]))
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "insert into accounts (user_id, balance) select lpad(to_hex(i), 32, '0')::uuid, %s "
            "from generate_series(0, %s) as i",
            [MONEY, USERS - 1],
        )
    connection.close()
    results = []
    for number in clients:
        for batch in SQL_BATCHES:
            for service, script in scripts(batch).items():
                results.append(
                    {
                        "clients": number,
                        "batch": batch,
                        "database": service,
                        **pgbench(servers, databases[service], script, number, batch, seconds),
                    }
                )
                print(
                    f"pgbench      {number:3} clients, {batch:2} orders a statement: {service:13} "
                    f"{results[-1]['per_second']:6.0f} orders/s",
                    flush=True,
                )
    check(servers, databases)
    return results


def pgbench(servers: Servers, database: str, script: str, clients: int, batch: int, seconds: float) -> dict[str, float]:
    """Run `script`, which does `batch` orders; return its figures."""
    file = servers.folder / f"{database}.sql"
    file.write_text(script)
    before = seconds_of(servers.postgres.pid)
    done = subprocess.run(
        [
            str(program("pgbench")),
            "--no-vacuum",
            "--protocol=prepared",
            f"--client={clients}",
            "--jobs=1",
            f"--time={max(round(seconds), 1)}",
            f"--file={file}",
            f"--host={HOST}",
            f"--port={servers.postgres.port}",
            f"--username={USER}",
            database,
        ],
        env={**os.environ, "PGOPTIONS": as_options(BY_INDEX)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"pgbench: {done.stderr[-2000:]}")
    transactions = re.search(r"actually processed: (\d+)", done.stdout)
    rate = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    assert transactions and rate, done.stdout
    cpu_s = seconds_of(servers.postgres.pid) - before
    return {"per_second": float(rate[1]) * batch, "cpu_ms": 1000 * cpu_s / (int(transactions[1]) * batch)}


def check(servers: Servers, databases: dict[str, str]) -> None:
    """Check that the statements did what they do in an order; otherwise the limit is that of something else."""
    undone = {
        "orders": "select (select count(*) from orders where status <> 'paid')"
        " + abs((select count(*) from orders) - (select count(*) from outbox))"
        " + (select count(*) from outbox where published_at is null)",
        "billing": f"select count(*) from operations where outcome <> '{Outcome.ACCEPTED}'",
        "notifications": "select count(*) from letters where order_id is null",
    }
    tables = {"orders": "outbox", "billing": "operations", "notifications": "letters"}
    for service, query in undone.items():
        if (left := servers.ask(databases[service], query)) or not servers.ask(
            databases[service], f"select count(*) from {tables[service]}"
        ):
            raise AssertionError(f"pgbench: {left} orders of {service} are not what they should be")


def publish_limits(servers: Servers, seconds: float) -> list[dict[str, float]]:
    """Measure the persistent messages a second to a durable queue, each confirmed, on one channel."""
    queue = Queue("bench.confirmed", durable=True, max_length=10_000)
    message = Message(EVENT.model_dump_json().encode(), queue, encoded=JSON)
    results = []
    channel = ConfirmedChannel(Connection(servers.rabbitmq.uri))
    try:
        for batch in PUBLISH_BATCHES:
            sent, before, started = 0, seconds_of(servers.rabbitmq.pid), time.monotonic()
            while (elapsed := time.monotonic() - started) < seconds:
                taken = channel.publish([message] * batch, CONFIRM_S)
                assert len(taken) == batch and all(taken)
                sent += batch
            cpu_s = seconds_of(servers.rabbitmq.pid) - before
            results.append({"batch": batch, "per_second": sent / elapsed, "cpu_ms": 1000 * cpu_s / sent})
            print(f"confirmed publishes, {batch:3} at a time: {results[-1]['per_second']:6.0f}/s", flush=True)
        queue.bind(channel.channel).delete()
    finally:
        channel.connection.release()
    return results


def measure(folder: Path, clients: Iterable[int], seconds: float) -> dict[str, Any]:
    with Servers(folder) as servers:
        return {"sql": sql_limits(servers, clients, seconds), "publish": publish_limits(servers, seconds)}
