"""Ids that sort by the time when they were made: UUIDs of version 7 (RFC 9562, section 5.7).

A new row comes last in the index of its ids, beside the ones before it. With random ids each lands on another page of
the index, and after a checkpoint PostgreSQL logs each of these pages as a whole (`full_page_writes`).

An id tells when it was made, to a millisecond. It is no secret: what must not be guessed, as a token, is not an id.
"""

from uuid_utils.compat import uuid7 as new_id

__all__ = ["new_id"]
