"""A backup of one database, taken while the system works, and put in the place of the database."""

import subprocess
from pathlib import Path

from sqlalchemy import create_engine, text

from services.local.net import HOST
from services.local.postgres import USER, program
from services.local.stack import Stack

TIMEOUT_S = 60


def tool(stack: Stack, name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs against the server of a stack."""
    where = ["-h", HOST, "-p", str(stack.postgres.port), "-U", USER]
    subprocess.run([str(program(name)), *where, *arguments], check=True, timeout=TIMEOUT_S)


def back_up(stack: Stack, service: str, folder: Path) -> Path:
    file = folder / f"{service}.dump"
    tool(stack, "pg_dump", "-Fc", "-f", str(file), service)
    return file


def restore(stack: Stack, service: str, file: Path) -> None:
    """Put the backup in the place of the database; its service meets that as an outage."""
    engine = create_engine(stack.postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in (f"drop database {service} with (force)", f"create database {service}_restored"):
            connection.execute(text(statement))
        tool(stack, "pg_restore", "-d", f"{service}_restored", str(file))
        connection.execute(text(f"alter database {service}_restored rename to {service}"))
    engine.dispose()
