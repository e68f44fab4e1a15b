"""An HTTP server of a test, in a thread of the test's process."""

from socketserver import BaseServer
from threading import Thread
from typing import Self


class Serving:
    """Serves from `with` on until its end; the port is that of the server that is given."""

    def __init__(self, server: BaseServer) -> None:
        self.server = server
        self.thread = Thread(target=server.serve_forever)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
