"""Harm to the page of the local modes: whom it serves, what it may break, and what it keeps."""

from tests.mutants.change import Change

SERVED = ("unit/local/test_page.py",)
SPANS = ("unit/local/test_page_spans.py",)

CHANGES = [
    Change(
        "token-not-asked-for",
        "any page of a browser on this machine that guesses the port can kill the services",
        "local/page/app.py",
        "if changes and not self._may_change(request):",
        "if changes and False:",
        SERVED,
    ),
    Change(
        "any-host",
        "a site whose name leads to 127.0.0.1 reads the databases (DNS rebinding)",
        "local/page/app.py",
        "if not is_here or _hostname(host) not in HOSTS:",
        "if not is_here:",
        SERVED,
    ),
    Change(
        "any-origin",
        "another site can send requests",
        "local/page/app.py",
        'if origin is not None and origin != f"http://{host}":',
        "if False:",
        SERVED,
    ),
    Change(
        "any-child",
        "the page can kill what is no part of it, such as the gateway",
        "local/page/control.py",
        "if action not in ACTIONS or not (server or name in dict(self._ports()))",
        "if action not in ACTIONS",
        ("unit/local/test_page_control.py",),
    ),
    Change(
        "socket-for-all",
        "another user of the machine can kill the services",
        "local/page/control.py",
        "mask = os.umask(0o177)",
        "mask = os.umask(0)",
        ("unit/local/test_page_control.py",),
    ),
    Change(
        "bomb",
        "a small request takes all memory",
        "local/page/receiver.py",
        "plain = inflater.decompress(body, BYTES + 1)",
        "plain = inflater.decompress(body)[:BYTES]",
        SPANS,
    ),
    Change(
        "spans-again",
        "a browser that reconnects gets spans twice",
        "local/page/spans.py",
        "        first = max(seen, oldest)\n",
        "        first = oldest\n",
        SPANS,
    ),
    Change(
        "loss-not-told",
        "a browser that was away for long does not know that spans are missing",
        "local/page/spans.py",
        "is_lost = position is not None and (not is_known or seen < oldest)",
        "is_lost = False",
        SPANS,
    ),
]
