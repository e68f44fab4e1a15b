"""Whether an order costs more when there are a million others."""

import time
from pathlib import Path
from typing import Any

from bench.contenders import Ours, Servers, connect, running
from bench.load import in_turns

EMPTY, FULL = "empty", "full"

#: Row n of each table belongs to order n: paid, in the last hour, by one of the users of the load. The relay would
#: remove what was published longer than OUTBOX_KEEP_S ago, which is not to be measured here.
NUMBERED = """
    from (select n, md5('order ' || n)::uuid as order_id, md5('event ' || n)::uuid as event_id,
                 (%(users)s::uuid[])[1 + n %% cardinality(%(users)s::uuid[])] as user_id,
                 now() - (%(rows)s - n) * interval '1 hour' / %(rows)s as at
          from generate_series(1, %(rows)s) as n) as one"""
FILL = {
    "orders": {
        "orders": "insert into orders (id, user_id, price, status, created_at, retry_at) "
        "select order_id, user_id, 1, 'paid', at, at" + NUMBERED,
        "outbox": "insert into outbox (event_id, type, body, created_at, claimed_until, published_at) "
        "select event_id, 'order_paid', jsonb_build_object('event_id', event_id, 'order_id', order_id, "
        "'user_id', user_id, 'price', 1), at, at, at" + NUMBERED,
    },
    "billing": {
        "operations": "insert into operations (id, kind, user_id, amount, debit, credit, outcome, balance, created_at) "
        "select order_id, 'payment', user_id, 1, user_id::text, 'revenue', 'accepted', 1, at" + NUMBERED,
    },
    "notifications": {
        "letters": "insert into letters (id, event_id, user_id, order_id, kind, subject, body, created_at) "
        "select md5('letter ' || n)::uuid, event_id, user_id, order_id, 'order_paid', 'Your order is paid', "
        "'Order ' || order_id || ' for 0.01 is paid. Thank you!', at" + NUMBERED,
    },
}


def measure(folder: Path, clients: int, pairs: int, seconds: float, rows: int) -> dict[str, Any]:
    """Load an empty and a full installation in turns, each with servers of its own."""
    with Servers(folder / EMPTY) as one, Servers(folder / FULL) as other:
        empty, full = Ours(one, EMPTY), Ours(other, FULL)
        with running(empty, full) as users:
            fill(other, users[FULL], rows)
            runs = in_turns([empty, full], users, [clients], pairs, seconds)
    return {"rows": rows, "runs": [vars(run) for run in runs]}


def fill(servers: Servers, users: list[str], rows: int) -> None:
    """Add `rows` rows to every table of orders, and have PostgreSQL tidy up before anything is measured."""
    for database, tables in FILL.items():
        connection = connect(servers.postgres.url(database))
        with connection.cursor() as cursor:
            for table, insert in tables.items():
                started = time.monotonic()
                cursor.execute(insert, {"users": users, "rows": rows})
                cursor.execute(f"vacuum (analyze) {table}")
                print(f"{cursor_rows(cursor, table)} {table} in {time.monotonic() - started:.0f} s", flush=True)
            cursor.execute("checkpoint")
        connection.close()


def cursor_rows(cursor: Any, table: str) -> int:
    cursor.execute(f"select count(*) from {table}")
    return int(cursor.fetchone()[0])
