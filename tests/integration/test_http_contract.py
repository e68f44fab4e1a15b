"""The HTTP API as the contract has it, errors above all. Everything goes through the gateway."""

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID, uuid4

import pytest

from services.contracts import MAX_AMOUNT
from services.local.net import wait_for
from tests.client import Api, fields, new_email, refuses_two_keys

NOBODY = "00000000-0000-4000-8000-000000000000"

LIMIT = 65_536  # of a body, in bytes
BAD_AMOUNTS = [0, -1, 10.5, 10.0, MAX_AMOUNT + 1, 10**40, "10", True, None, [1], {"amount": 1}]


def posts(user_id: str) -> list[tuple[str, dict]]:
    """A good request for every POST."""
    return [
        ("/users", {"name": "Ada", "email": new_email()}),
        (f"/billing/accounts/{user_id}/deposit", {"amount": 10}),
        (f"/billing/accounts/{user_id}/withdraw", {"amount": 1}),
        ("/orders", {"user_id": user_id, "price": 1}),
        ("/notifications", {"user_id": user_id, "subject": "Hello", "body": "Good to see you."}),
    ]


def test_a_user_has_an_account_as_soon_as_it_is_active(api: Api):
    email = new_email()
    answer = api.post("/users", {"name": "Ada", "email": email})
    user = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/users/{user['id']}"
    assert user.keys() == {"id", "name", "email", "status", "created_at"}
    assert (user["name"], user["email"], user["status"]) == ("Ada", email, "active")
    assert datetime.fromisoformat(user["created_at"]).utcoffset().total_seconds() == 0
    assert api.get(f"/users/{user['id']}").json() == user
    assert api.get(f"/billing/accounts/{user['id']}").json() == {"user_id": user["id"], "balance": 0}


@pytest.mark.parametrize("change", [str, str.upper, str.title])
def test_an_address_belongs_to_one_user(api: Api, change):
    email = new_email()
    assert api.post("/users", {"name": "Ada", "email": email}).status_code == 201
    again = api.post("/users", {"name": "Bea", "email": change(email)})
    assert again.status_code == 409
    assert fields(again) == {"email"}


def test_money_goes_in_and_out(api: Api):
    user_id = api.new_user()["id"]
    receipt = api.deposit(user_id, 1000).json()
    moved = {"user_id": user_id, "amount": 1000, "balance": 1000, "kind": "deposit"}
    assert receipt == moved | {name: receipt[name] for name in ("operation_id", "created_at")}
    assert UUID(receipt["operation_id"])
    assert api.withdraw(user_id, 400).json()["balance"] == 600
    refused = api.withdraw(user_id, 601)
    assert refused.status_code == 402
    assert refused.json()["type"] == "urn:nameko-hw:problem:insufficient-funds"
    assert api.balance(user_id) == 600
    assert api.withdraw(user_id, 600).json()["balance"] == 0


def test_an_order_is_paid_or_rejected(api: Api):
    user_id = api.new_user(balance=300)["id"]
    answer = api.order(user_id, 300)
    paid = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/orders/{paid['id']}"
    assert paid.keys() == {"id", "user_id", "price", "status", "reason", "created_at"}
    assert (paid["user_id"], paid["price"], paid["status"], paid["reason"]) == (user_id, 300, "paid", None)
    rejected = api.order(user_id, 1).json()
    assert (rejected["status"], rejected["reason"]) == ("rejected", "insufficient_funds")
    assert api.get(f"/orders/{paid['id']}").json() == paid
    assert api.items(f"/orders?user_id={user_id}") == [rejected, paid]
    assert api.balance(user_id) == 0
    letters = api.letters(user_id, 2)
    assert {(letter["order_id"], letter["kind"]) for letter in letters} == {
        (paid["id"], "order_paid"),
        (rejected["id"], "order_rejected"),
    }
    assert letters[0].keys() == {"id", "user_id", "order_id", "email", "kind", "subject", "body", "created_at"}


def test_the_statement_says_how_the_balance_came_about(api: Api):
    user_id = api.new_user(balance=1000)["id"]
    order = api.order(user_id, 300).json()
    assert api.withdraw(user_id, 5000).status_code == 402
    assert api.order(user_id, 5000).json()["status"] == "rejected"
    api.withdraw(user_id, 100)
    statement = api.items(f"/billing/accounts/{user_id}/operations")
    assert [(line["kind"], line["amount"], line["balance"]) for line in statement] == [
        ("withdrawal", 100, 600),
        ("payment", 300, 700),
        ("deposit", 1000, 1000),
    ]
    assert statement[1]["operation_id"] == order["id"]


def test_a_message_is_stored(api: Api):
    user = api.new_user()
    to_user = api.post("/notifications", {"user_id": user["id"], "subject": "Hello", "body": ""})
    letter = to_user.json()
    assert to_user.status_code == 201
    assert (letter["kind"], letter["subject"]) == ("message", "Hello")
    assert (letter["user_id"], letter["order_id"]) == (user["id"], None)
    to_address = api.post("/notifications", {"email": "bea@example.com", "subject": "Hello", "body": "x"}).json()
    assert (to_address["email"], to_address["user_id"]) == ("bea@example.com", None)
    assert [one["id"] for one in api.letters(user["id"], 1)] == [letter["id"]]


@pytest.mark.parametrize(
    "path",
    [
        f"/users/{NOBODY}",
        f"/orders/{NOBODY}",
        f"/billing/accounts/{NOBODY}",
        f"/billing/accounts/{NOBODY}/operations",
        f"/billing/accounts/{NOBODY}/operations/{NOBODY}",
        f"/notifications/{NOBODY}",
        "/users/nobody",
        "/orders/",
        "/users//x",
        "/nowhere",
        "/billing",
        "/billing/accounts",
        "/users/%00",
        "/%ff",
        "/metrics",
        "/docs/nothing",
        "/docs/%2e%2e/setup.py",
    ],
)
def test_what_is_not_there_is_404(api: Api, path):
    answer = api.get(path)
    assert answer.status_code == 404
    fields(answer)


@pytest.mark.parametrize(
    "method, path",
    [
        ("DELETE", "/users"),
        ("PUT", "/orders"),
        ("DELETE", f"/notifications/{NOBODY}"),
        ("PATCH", f"/orders/{NOBODY}"),
        ("POST", "/docs"),
        ("DELETE", "/notifications"),
        ("GET", f"/billing/accounts/{NOBODY}/deposit"),
        ("TRACE", "/orders"),
    ],
)
def test_what_cannot_be_done_is_405(api: Api, method, path):
    answer = api.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["Allow"]
    fields(answer)


@pytest.mark.parametrize("amount", BAD_AMOUNTS)
def test_a_bad_amount_is_named_and_changes_nothing(api: Api, amount):
    user_id = api.new_user(balance=50)["id"]
    for answer, name in (
        (api.deposit(user_id, amount), "amount"),
        (api.withdraw(user_id, amount), "amount"),
        (api.order(user_id, amount), "price"),
    ):
        assert answer.status_code == 422
        assert any(field == name or field.startswith(f"{name}.") for field in fields(answer))
        assert name in answer.json()["detail"]
    assert api.balance(user_id) == 50
    assert api.items(f"/orders?user_id={user_id}") == []


def test_an_unknown_user_is_404_and_changes_nothing(api: Api):
    user_id = str(uuid4())
    for answer in (api.order(user_id, 1), api.deposit(user_id, 1), api.withdraw(user_id, 1)):
        assert answer.status_code == 404
        fields(answer)
    assert api.items(f"/orders?user_id={user_id}") == []
    assert api.letters(user_id) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"{'price': 1}",
        b'{"price": NaN}',
        b'{"price": Infinity}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"price": ' + b"9" * 5000 + b"}",
        b'{"a": 1} trailing',
        b"\xef\xbb\xbf{}",
    ],
)
def test_broken_json_is_400_everywhere(api: Api, body):
    for path, _ in posts(NOBODY):
        answer = api.request("POST", path, data=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == (413 if len(body) > 65536 else 400), (path, answer.text)
        fields(answer)


@pytest.mark.parametrize("body", [b"null", b"1", b'"text"', b"[]", b"{}", b"true"])
def test_json_of_another_shape_is_422_everywhere(api: Api, body):
    for path, _ in posts(NOBODY):
        answer = api.request("POST", path, data=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert fields(answer)


def test_a_key_given_twice_is_named(api: Api):
    user_id = api.new_user(balance=10)["id"]
    body = f'{{"user_id": "{user_id}", "price": 1, "price": 2}}'
    answer = api.request("POST", "/orders", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert fields(answer) == {"price"}
    assert api.balance(user_id) == 10


def test_an_unknown_field_is_named(api: Api):
    for path, body in posts(NOBODY):
        answer = api.post(path, body | {"colour": "red"})
        assert answer.status_code == 422
        assert "colour" in fields(answer)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "json",
    ],
)
def test_another_content_type_is_415(api: Api, content_type):
    for path, body in posts(NOBODY):
        headers = {"Content-Type": content_type} if content_type else {}
        answer = api.request("POST", path, data=json.dumps(body).encode(), headers=headers)
        assert answer.status_code == 415
        fields(answer)


def test_a_charset_may_be_named(api: Api):
    answer = api.request(
        "POST",
        "/users",
        data=json.dumps({"name": "Zoë", "email": new_email()}).encode(),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    assert answer.status_code == 201
    assert answer.json()["name"] == "Zoë"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_the_limit_is_read_and_one_byte_more_is_413(stack, api: Api, is_chunked: bool):
    for path, body in posts(NOBODY):
        service = path[1:].partition("/")[0]
        with Api(f"http://127.0.0.1:{stack.ports[service][0]}") as direct:
            for client in (api, direct):
                for length, statuses in ((LIMIT, (201, 202, 404, 422)), (LIMIT + 1, (413,))):
                    text = json.dumps(body | ({"email": new_email()} if path == "/users" else {})).encode()
                    text += b" " * (length - len(text))
                    data = iter([text[:40_000], text[40_000:]]) if is_chunked else text
                    answer = client.request("POST", path, data=data, headers={"Content-Type": "application/json"})
                    assert answer.status_code in statuses, (path, length, answer.text)
                    if answer.status_code == 413:
                        fields(answer)


def test_a_chunked_body_is_read(api: Api):
    user_id = api.new_user(balance=10)["id"]
    text = json.dumps({"user_id": user_id, "price": 4}).encode()
    headers = {"Content-Type": "application/json"}
    paid = api.request("POST", "/orders", data=iter([text[:9], text[9:]]), headers=headers)
    assert paid.status_code in (201, 202) and paid.json()["price"] == 4
    too_long = api.request("POST", "/orders", data=iter([b"x" * 40_000, b"x" * 40_000]), headers=headers)
    assert too_long.status_code == 413
    broken = api.request("POST", "/orders", data=iter([b"{", b"x"]), headers=headers)
    assert broken.status_code == 400


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET /orders HTTP/9.9\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: nine\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_broken_http_is_answered_without_html(stack, request_):
    for port in (stack.port, stack.ports["orders"][0]):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request_)
            answer = connection.recv(65536)
        assert b" 4" in answer.split(b"\r\n")[0] or b" 505" in answer.split(b"\r\n")[0], answer
        assert b"<" not in answer and b"Traceback" not in answer


def test_a_body_that_never_ends_is_given_up(stack):
    connection = http.client.HTTPConnection("127.0.0.1", stack.ports["orders"][0], timeout=30)
    connection.putrequest("POST", "/orders")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    answer = connection.getresponse()
    assert answer.status in (400, 408)
    assert answer.headers["Content-Type"] == "application/problem+json"
    connection.close()


@pytest.mark.parametrize(
    "key",
    [
        "",
        " ",
        "é",
        "a" * 256,
        "tab\there",
        '""',
        '" "',
        '"' + "a" * 256 + '"',
        '"half',
        '"',
        '"é"',
        '"k";p=1',
        '"a"b"',
        '"a\\"',
        '"a\\b"',
        '"k", "l"',
    ],
)
def test_a_bad_idempotency_key_is_named(stack, key):
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=10)
    connection.putrequest("POST", "/users")
    connection.putheader("Idempotency-Key", key.encode())
    body = json.dumps({"name": "Ada", "email": new_email()}).encode()
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    problem = json.loads(answer.read())
    connection.close()
    assert answer.status == 400
    assert problem["errors"][0]["field"] == "Idempotency-Key"


def test_two_keys_are_refused(stack):
    refuses_two_keys(stack.url)


def test_the_same_key_has_one_effect_and_one_answer(api: Api):
    user_id = api.new_user(balance=100)["id"]
    api.post("/notifications", {"user_id": user_id, "subject": "Hello", "body": ""})
    api.addressed_letters(user_id, 1)  # an address that becomes known later would change the second answer
    for path, body in posts(user_id):
        key = str(uuid4())
        first, again = api.post(path, body, key), api.post(path, body, key)
        assert first.status_code == again.status_code in (200, 201)
        assert first.json() == again.json()
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert first.headers.get("Location") == again.headers.get("Location")
    assert api.balance(user_id) == 100 + 10 - 1 - 1


@pytest.mark.parametrize("length", [1, 255])
def test_a_key_is_the_same_with_and_without_quotes(api: Api, length: int):
    user_id = api.new_user(balance=10)["id"]
    key = uuid4().hex * 8
    key = key[:255] if length == 255 else key[0]
    receipts = [api.deposit(user_id, 5, one) for one in (key, f'"{key}"', key)]
    if receipts[0].status_code != 422:  # a short key may have been used by another test
        assert [one.status_code for one in receipts] == [200] * 3
        assert len({one.json()["operation_id"] for one in receipts}) == 1
        assert api.balance(user_id) == 15


def test_quotes_and_backslashes_within_a_quoted_key_are_escaped(api: Api):
    user_id, key = api.new_user(balance=10)["id"], f'a"b\\{uuid4()}'
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    receipts = [api.deposit(user_id, 5, one).json() for one in (key, quoted)]
    assert receipts[0] == receipts[1]
    assert api.balance(user_id) == 15


def test_the_same_key_with_other_values_is_refused(api: Api):
    user = api.new_user(balance=100)
    changes = {"email": "x@example.com", "amount": 7, "price": 7, "subject": "Other"}
    for path, body in posts(user["id"]):
        key = str(uuid4())
        assert api.post(path, body, key).ok
        [changed] = [name for name in changes if name in body]
        answer = api.post(path, body | {changed: changes[changed]}, key)
        assert answer.status_code == 422
        assert fields(answer) == {"Idempotency-Key"}
    assert api.balance(user["id"]) == 100 + 10 - 1 - 1


@pytest.mark.parametrize(
    "field, value",
    [
        ("email", "x@example.com"),
        ("email", None),
        ("subject", "Other"),
        ("body", "Other"),
    ],
)
def test_a_key_of_a_message_knows_all_of_it(api: Api, field: str, value: str | None):
    key = str(uuid4())
    message = {"user_id": str(uuid4()), "email": "ada@example.com", "subject": "Hello", "body": "Ada"}
    letter = api.post("/notifications", message, key)
    other = {name: one for name, one in {**message, field: value}.items() if one is not None}
    answer = api.post("/notifications", other, key)
    assert answer.status_code == 422 and fields(answer) == {"Idempotency-Key"}
    assert api.post("/notifications", message, key).json() == letter.json()


def test_a_key_of_a_deposit_is_not_good_for_a_withdrawal(api: Api):
    user_id, key = api.new_user()["id"], str(uuid4())
    assert api.deposit(user_id, 5, key).ok
    assert api.withdraw(user_id, 5, key).status_code == 422
    assert api.balance(user_id) == 5


def test_a_key_belongs_to_a_user(api: Api):
    users = [api.new_user(balance=100)["id"] for _ in range(2)]
    for path, body in [request for user_id in users for request in posts(user_id)[1:]]:
        for is_replayed in (False, True):
            answer = api.post(path, body, f"key of {path.rpartition('/')[2]}")
            assert answer.ok, answer.text
            assert ("Idempotent-Replayed" in answer.headers) == is_replayed
    assert [api.balance(user_id) for user_id in users] == [100 + 10 - 1 - 1] * 2


def test_a_key_of_a_message_to_an_address_alone_belongs_to_the_service(api: Api):
    key, message = str(uuid4()), {"email": "ada@example.com", "subject": "Hello", "body": ""}
    letter = api.post("/notifications", message, key)
    assert api.post("/notifications", message, key).json() == letter.json()
    assert api.post("/notifications", message | {"email": "x@example.com"}, key).status_code == 422
    assert api.post("/notifications", message | {"user_id": str(uuid4())}, key).json() != letter.json()


def test_a_refusal_is_repeated_under_its_key(api: Api):
    user_id, key = api.new_user()["id"], str(uuid4())
    assert api.withdraw(user_id, 5, key).status_code == 402
    rejected = api.order(user_id, 5, f"{key} order").json()
    api.deposit(user_id, 100)
    again = api.withdraw(user_id, 5, key)
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (402, "true")
    assert api.order(user_id, 5, f"{key} order").json() == rejected
    assert api.balance(user_id) == 100


def test_a_key_sent_many_times_at_once_has_one_effect(api: Api):
    user_id = api.new_user(balance=1000)["id"]
    for path, body in posts(user_id):
        key = str(uuid4())
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: api.post(path, body, key), range(16)))
        assert {answer.status_code for answer in answers} <= {200, 201}, [answer.text for answer in answers]
        assert len({answer.text for answer in answers}) == 1, path
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1, path
    assert api.balance(user_id) == 1000 + 10 - 1 - 1


def test_a_list_is_read_page_by_page(api: Api):
    user_id = api.new_user(balance=100)["id"]
    made = [api.order(user_id, 1 + number).json()["id"] for number in range(7)]
    api.letters(user_id, 7)
    for path, name in (
        (f"/orders?user_id={user_id}", "id"),
        (f"/notifications?user_id={user_id}", "order_id"),
        (f"/billing/accounts/{user_id}/operations?", "operation_id"),
    ):
        seen, cursor, sizes = [], "", []
        while cursor is not None:
            page = api.get(f"{path}&limit=3{cursor and '&cursor='}{cursor}").json()
            seen += page["items"]
            sizes.append(len(page["items"]))
            cursor = page["next"]
        assert max(sizes) == 3
        assert sorted(item["created_at"] for item in seen) == [item["created_at"] for item in reversed(seen)]
        assert set(made) <= {item[name] for item in seen}
        assert len({item[name] for item in seen}) == len(seen)


def test_a_full_last_page_has_no_next(api: Api):
    user_id = api.new_user(balance=100)["id"]
    for _ in range(3):
        api.order(user_id, 1)
    assert api.get(f"/orders?user_id={user_id}&limit=3").json()["next"] is None
    assert api.get(f"/orders?user_id={user_id}&limit=2").json()["next"]


@pytest.mark.parametrize(
    "query, name",
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1.5", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=", "cursor"),
        ("user_id=x", "user_id"),
        ("limit=1&limit=2", "limit"),
        ("colour=red", "colour"),
    ],
)
def test_a_bad_parameter_is_named(api: Api, query, name):
    for path in ("/orders", "/notifications"):
        answer = api.get(f"{path}?{query}")
        assert answer.status_code in (400, 422)
        assert fields(answer) == {name}


def test_without_a_user_a_list_holds_everyones(api: Api):
    first, second = api.new_user(balance=1)["id"], api.new_user(balance=1)["id"]
    made = {api.order(first, 1).json()["id"], api.order(second, 1).json()["id"]}
    assert made <= {order["id"] for order in api.get("/orders").json()["items"]}


def test_health_and_metrics_are_served_by_each_service(stack):
    for service, [port] in stack.ports.items():
        with Api(f"http://127.0.0.1:{port}") as direct:
            assert direct.get("/health/live").json() == {"status": "live"}
            broker = {"broker": "up"} if stack.style.has_broker else {}
            assert direct.get("/health/ready").json() == {"status": "ready"} | broker
            assert f'service="{service}"' in direct.get("/metrics").text


def test_metrics_count_requests_rpcs_and_events(stack, api: Api):
    user_id = api.new_user(balance=1)["id"]
    api.order(user_id, 1)
    api.letters(user_id, 1)

    def metrics(service: str) -> str:
        [port] = stack.ports[service]
        return Api(f"http://127.0.0.1:{port}").get("/metrics").text

    published = 'nameko_hw_events_published_total{service="orders"}'  # counted when it is confirmed and recorded
    wait_for(lambda: published in metrics("orders"), 5, "the event to be counted")
    text = {service: metrics(service) for service in ("orders", "notifications")}
    assert (
        'nameko_hw_http_request_seconds_count{method="POST",route="/orders",service="orders",status="201"}'
        in text["orders"]
    )
    call = {"broker": "billing.pay_all", "http": "billing.payments"}.get(stack.style.name)
    assert (
        not call
        or f'nameko_hw_rpc_seconds_count{{method="{call}",outcome="replied",service="orders"}}' in text["orders"]
    )
    assert 'nameko_hw_outbox_lag_seconds{service="orders"}' in text["orders"]
    assert 'nameko_hw_pending{service="orders"}' in text["orders"]
    event = {"broker": "order_paid", "events": "payment_accepted"}.get(stack.style.name)
    handled = f'nameko_hw_events_handled_total{{event="{event}",outcome="handled",service="notifications"}}'
    assert not event or handled in text["notifications"]


def test_the_front_page_leads_to_the_documentation_where_the_page_is_not_served(stack):
    for base in (stack.url, f"http://127.0.0.1:{stack.ports['billing'][0]}"):
        with Api(base) as client:
            assert client.get("/").url == f"{base}/docs"
            assert client.get("/").status_code == 200
            refused = client.request("DELETE", "/")
            assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


def test_the_documentation_is_served_without_help_from_outside(api: Api):
    page = api.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "//" not in page.text.replace("<!doctype", "")
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js"):
        assert api.get(f"/docs/{name}").status_code == 200
    assert api.get("/openapi.json").json()["openapi"] == "3.1.0"


def test_each_problem_leads_to_the_line_that_explains_it(stack, api: Api):
    refused = api.get(f"/orders/{NOBODY}")
    assert refused.json()["type"] == "urn:nameko-hw:problem:order-not-found"
    path, _, anchor = refused.json()["help"].partition("#")
    assert f'<dt id="{anchor}">' in api.get(path).text and anchor == "order-not-found"


def test_each_field_is_told_what_is_wrong_in_our_words(api: Api):
    asked = {"name": " ", "email": "ada", "age": 7}
    answer = api.post("/users", asked)
    said = {one["field"]: (one["code"], one["message"]) for one in answer.json()["errors"]}
    assert said == {
        "name": ("line", "should be text of 1 to 200 characters, not only spaces"),
        "email": ("email", "should be an e-mail address like ada@example.com"),
        "age": ("unknown", "is not known here"),
    }
    wrong = {"user_id": "me", "price": "five"}
    codes = {one["field"]: one["code"] for one in api.post("/orders", wrong).json()["errors"]}
    assert codes == {"user_id": "uuid", "price": "integer"}
    for price, code in ((0, "too_small"), (10**13, "too_large"), (1.5, "integer"), (None, "integer")):
        [one] = api.post("/orders", {"user_id": NOBODY, "price": price}).json()["errors"]
        assert (one["field"], one["code"]) == ("price", code)
    assert api.post("/orders", {}).json()["errors"][0]["code"] == "required"
    assert api.post("/orders", []).json()["errors"][0]["code"] == "object"


def test_a_request_has_an_id_which_answers_and_the_log_share(stack, api: Api):
    answer = api.request("GET", f"/orders/{NOBODY}", headers={"X-Request-Id": "my-page:7"})
    assert answer.headers["X-Request-Id"] == "my-page:7"
    assert "instance" not in answer.json(), "a refusal is the same each time that its key is repeated"
    made = {api.get("/orders").headers["X-Request-Id"] for _ in range(2)}
    assert len(made) == 2 and all(UUID(one) for one in made)
    unusable = api.request("GET", "/orders", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"]
    assert UUID(unusable)
    for path in ("/nowhere", "/docs"):
        assert api.request("GET", path, headers={"X-Request-Id": "seven"}).headers["X-Request-Id"] == "seven"


def test_what_moves_is_not_cached_and_what_has_ended_need_not_be_sent_again(api: Api):
    user_id = api.new_user(balance=10)["id"]
    order = api.post("/orders", {"user_id": user_id, "price": 4}, wait_s=4).json()
    for path in (f"/billing/accounts/{user_id}", f"/orders?user_id={user_id}", f"/orders/{NOBODY}", "/nowhere"):
        answer = api.get(path)
        assert answer.headers["Cache-Control"] == "no-store" and "ETag" not in answer.headers, path
    shown = api.get(f"/orders/{order['id']}")
    assert shown.json()["status"] == "paid" and shown.headers["Cache-Control"] == "private, no-cache"
    again = api.request("GET", f"/orders/{order['id']}", headers={"If-None-Match": shown.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    for condition in ("If-None-Match", "If-Match"):
        other = api.request("GET", f"/orders/{order['id']}", headers={condition: '"other"'})
        assert other.status_code == 200 and other.json() == shown.json(), condition
