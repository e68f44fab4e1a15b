"""Databases that have been used for long: many rows, quickly.

Indexes and constraints are dropped before a table is filled, and made again after it, as a restore does. Nobody else
may use the databases meanwhile. What is measured afterwards runs with the settings of every other measurement.
"""

import time
from collections.abc import Sequence
from typing import Any

from bench.contenders import MONEY, Servers, connect


def made_at(time: str, name: str) -> str:
    """Return the SQL of an id that sorts by the time when it was made, as those of the services do."""
    return f"(lpad(to_hex((extract(epoch from {time}) * 1000)::bigint), 12, '0') || substr(md5({name}), 13))::uuid"


#: Row n of each table belongs to order n: paid, in the last hour, by one of the users of the load. The relay would
#: remove what was published longer than OUTBOX_KEEP_S ago, which is not to be measured here.
NUMBERED = f"""
    from (select n, at, {made_at("at", "'order ' || n")} as order_id, {made_at("at", "'event ' || n")} as event_id,
                 (%(users)s::uuid[])[1 + n %% cardinality(%(users)s::uuid[])] as user_id
          from (select n, now() - (%(rows)s - n) * interval '1 hour' / %(rows)s as at
                from generate_series(1, %(rows)s) as n) as numbered) as one"""
BODY = "jsonb_build_object('event_id', event_id, 'order_id', order_id, 'user_id', user_id, 'price', 1)"
FILL = {
    "orders": {
        "orders": "insert into orders (id, user_id, price, status, created_at, retry_at) "
        "select order_id, user_id, 1, 'paid', at, at" + NUMBERED,
        "outbox": "insert into outbox (event_id, type, body, created_at, claimed_until, published_at) "
        f"select event_id, 'order_paid', {BODY}, at, at, at" + NUMBERED,
    },
    "billing": {
        "operations": "insert into operations (id, kind, user_id, amount, debit, credit, outcome, balance, created_at) "
        "select order_id, 'payment', user_id, 1, user_id::text, 'revenue', 'accepted', 1, at" + NUMBERED,
    },
    "notifications": {
        "letters": "insert into letters (id, event_id, user_id, order_id, kind, subject, body, created_at) "
        "select event_id, event_id, user_id, order_id, 'order_paid', 'Your order is paid', "
        "'Order ' || order_id || ' for 0.01 is paid. Thank you!', at" + NUMBERED,
    },
}
WAITING = (
    "insert into outbox (event_id, type, body, created_at) "
    f"select event_id, 'order_paid', {BODY}, now() from (select gen_random_uuid() as event_id, "
    "gen_random_uuid() as order_id, gen_random_uuid() as user_id from generate_series(1, %s)) as one"
)
CONSTRAINTS = """
    select conname, pg_get_constraintdef(oid) from pg_constraint
    where conrelid = %s::regclass and contype in ('p', 'u') order by contype, conname"""
INDEXES = """
    select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index
    where indrelid = %s::regclass and indexrelid not in (select conindid from pg_constraint) order by 1"""


def fill(servers: Servers, users: Sequence[str], rows: int) -> None:
    """Add `rows` rows to every table that orders grow, and have PostgreSQL tidy up before anything is measured."""
    for database, tables in FILL.items():
        connection = connect(servers.postgres.url(database), "-c maintenance_work_mem=1GB")
        with connection.cursor() as cursor:
            for table, insert in tables.items():
                started = time.monotonic()
                fill_table(cursor, table, insert, {"users": list(users), "rows": rows})
                print(f"{rows} {table} in {time.monotonic() - started:.0f} s", flush=True)
            cursor.execute("checkpoint")
        connection.close()


def fill_table(cursor: Any, table: str, insert: str, values: object) -> None:
    """Insert rows into a table whose indexes are dropped meanwhile."""
    cursor.execute(CONSTRAINTS, [table])
    constraints = cursor.fetchall()
    cursor.execute(INDEXES, [table])
    indexes = cursor.fetchall()
    for name, _ in constraints:
        cursor.execute(f"alter table {table} drop constraint {name}")
    for name, _ in indexes:
        cursor.execute(f"drop index {name}")
    cursor.execute(insert, values)
    for name, definition in constraints:
        cursor.execute(f"alter table {table} add constraint {name} {definition}")
    for _, definition in indexes:
        cursor.execute(definition)
    cursor.execute(f"vacuum (analyze) {table}")


def open_accounts(servers: Servers, count: int) -> list[str]:
    """Open so many accounts with money, and return their users."""
    connection = connect(servers.postgres.url("billing"))
    with connection.cursor() as cursor:
        cursor.execute(
            "insert into accounts (user_id, balance) select gen_random_uuid(), %s from generate_series(1, %s) "
            "returning user_id::text",
            [MONEY, count],
        )
        users = [user for (user,) in cursor.fetchall()]
        cursor.execute("vacuum (analyze) accounts")
    connection.close()
    return users


def fill_outbox(servers: Servers, count: int) -> None:
    """Let so many events wait in the outbox of orders, of orders that nobody else knows."""
    connection = connect(servers.postgres.url("orders"))
    with connection.cursor() as cursor:
        cursor.execute(WAITING, [count])
    connection.close()
