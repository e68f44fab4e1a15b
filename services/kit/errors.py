"""What can go wrong, named by what it tells about the outcome. Everything else in the kit is built on these names.

After an error every caller asks one question: was it done? *Unknown* means that it may have been done or not, and that
asking again under the same id tells. *Nothing done* means that the other side proved that it did nothing. An error that
is in no list here proves nothing, and is a defect until somebody says otherwise.
"""

import sqlalchemy.exc
from nameko.exceptions import deserialize_to_instance


class Unavailable(Exception):
    """Something that we need did not answer within its deadline: the outcome is unknown."""


class CallFailed(Unavailable):
    """Another service gave an answer that is none: the outcome is unknown, and somebody should look at it."""


class Refused(Unavailable):
    """The other side refuses a message for good; others that were sent with it may have arrived."""


class DatabaseAway(sqlalchemy.exc.OperationalError):
    """The database is away, silent, shutting down, full or read-only: what was sent may have been committed or not."""


class TryAgain(sqlalchemy.exc.OperationalError):
    """The server rolled back (a deadlock, a lock, its deadline), and may well succeed next time."""


class DriverFailed(sqlalchemy.exc.DatabaseError):
    """A defect: the driver refused a value or an answer, so the server says nothing of what became of the statement."""


class KeyReused(Exception):
    """The Idempotency-Key was used before, for a request with other values."""


class BusinessError(Exception):
    """An answer that the callers of an RPC must expect; every other error leaves them with an unknown outcome."""


@deserialize_to_instance
class InvalidArgument(Exception):
    """An RPC argument is missing or out of range; the message names it."""


@deserialize_to_instance
class NotNow(Exception):
    """The server of an RPC cannot answer now, because its database does not answer or rolled back.

    To the caller the outcome is unknown.
    """


#: The outcome is unknown, and this is temporary. An exhausted pool, and a session used after its connection was lost,
#: are consequences of an outage and count as one.
DATABASE_DOWN = (DatabaseAway, sqlalchemy.exc.TimeoutError, sqlalchemy.exc.PendingRollbackError)

#: What was asked for may have happened or not. This is temporary; then asking again under the same id tells.
OUTCOME_UNKNOWN = (Unavailable, *DATABASE_DOWN)

#: What goes away by itself, whether or not something was done: nothing is wrong with the request, the event or the row.
TEMPORARY = (*OUTCOME_UNKNOWN, TryAgain)

#: The server itself answered that it refuses, which ends a transaction: nothing of it was committed. Whatever is not
#: listed proves nothing.
NOTHING_DONE = (
    TryAgain,
    sqlalchemy.exc.DataError,
    sqlalchemy.exc.IntegrityError,
    sqlalchemy.exc.InternalError,
    sqlalchemy.exc.NotSupportedError,
    sqlalchemy.exc.ProgrammingError,
)
