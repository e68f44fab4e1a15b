"""More requests than workers: bounded waiting, then 503; nothing is half done."""

import http.client
import json
import threading
import time
from collections import Counter
from uuid import uuid4

from services.local.stack import Stack
from tests.books import one, violations, wait_until_quiet
from tests.client import Api

CLIENTS = 500
REQUESTS = 2


def test_500_clients_at_once_are_served_or_refused_in_time(stack: Stack, api: Api):
    user_id = api.new_user(balance=10**6)["id"]
    [port] = stack.ports["orders"]
    answers: list[tuple[int, float, str | None]] = []
    start = threading.Barrier(CLIENTS)

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = json.dumps({"user_id": user_id, "price": 1})
        start.wait()
        for _ in range(REQUESTS):
            started = time.monotonic()
            connection.request(
                "POST", "/orders", body, {"Content-Type": "application/json", "Idempotency-Key": str(uuid4())}
            )
            answer = connection.getresponse()
            answer.read()
            answers.append((answer.status, time.monotonic() - started, answer.headers["Retry-After"]))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = Counter(status for status, _, _ in answers)
    assert sum(count.values()) == CLIENTS * REQUESTS
    assert count.keys() <= {201, 202, 503}, count
    assert count[201] > 50
    assert all(retry_after for status, _, retry_after in answers if status == 503)
    # a request waits for a worker and then has its deadline; the rest is for 500 threads on a busy machine
    assert max(took_s for _, took_s, _ in answers) < 2 + 4 + 10
    wait_until_quiet(stack)
    stored = one(stack, "orders", "select count(*) from orders where user_id = :user", user=user_id)
    assert stored >= count[201] + count[202]
    assert api.balance(user_id) == 10**6 - stored
    assert violations(stack) == []
    assert api.order(user_id, 1).status_code == 201
