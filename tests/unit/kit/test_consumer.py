"""A consumer gives up its connection when it is lost, whoever notices that first."""

from types import SimpleNamespace

import pytest
from amqp.exceptions import RecoverableConnectionError

from services.kit.amqp.consumer import QueueConsumer


def consumer_on(connection: object) -> QueueConsumer:
    consumer = QueueConsumer()
    consumer._channel = SimpleNamespace(connection=connection)
    consumer._consumers = {"a provider": "its consumer"}
    return consumer


@pytest.mark.parametrize("connection", [None, SimpleNamespace(connected=False)])
def test_a_lost_connection_is_given_up_rather_than_waited_on(connection: object):
    """kombu would open another one in its place, on which nothing is consumed."""
    with pytest.raises(RecoverableConnectionError):
        consumer_on(connection).on_iteration()


@pytest.mark.parametrize("connection", [SimpleNamespace(connected=True), "that of the memory transport"])
def test_on_a_good_one_it_goes_on(connection: object):
    consumer = consumer_on(connection)
    consumer.on_iteration()
    assert not consumer.should_stop
