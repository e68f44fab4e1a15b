"""Orders in the style `broker`: billing is asked by RPC, and an event tells everybody how an order ended."""

from collections.abc import Sequence
from itertools import chain

from services.contracts import OrderPlaced
from services.kit.amqp.rpc import RpcFailed, RpcProxy
from services.kit.amqp.transport import AmqpTransport
from services.kit.batching import batched
from services.kit.busy import Busy
from services.kit.outbox.provider import Outbox
from services.kit.recovery import one_by_one
from services.orders import models, service
from services.orders.domain import OrderView, payment_for
from services.orders.service import AccountBusy, NoAccount, read_outcome


class OrdersService(service.AskingOrders):
    """Asks billing to pay for orders, many in one request, and publishes that they were paid or rejected."""

    outbox = Outbox(models.OutboxEvent, AmqpTransport(), ignores=(OrderPlaced,))
    billing = RpcProxy("billing")
    users = RpcProxy("users")
    busy = Busy()

    def _settle(self, order: OrderView) -> OrderView:
        """Settle the order together with others; in a round of its account if that is busy; alone if it has none."""
        try:
            return self._settle_together.one(order)
        except AccountBusy:
            return self._settle_busy.one(order)
        except NoAccount:
            return self._refuse(order)

    @batched(again=(RpcFailed,))
    def _settle_together(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        return self._settle_all(orders, wait=False)

    @batched(key=lambda order: order.user_id, again=(RpcFailed,))
    def _settle_busy(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        """Settle orders of one account that somebody else holds, in rounds of their own, which may wait for it.

        If the wait fails, no request waits for this account for a second: each would occupy a worker here, and a
        connection in billing.
        """
        account = orders[0].user_id
        if account in self.busy:
            return [AccountBusy()] * len(orders)
        results = self._settle_all(orders, wait=True)
        if any(isinstance(result, AccountBusy) for result in results):
            self.busy.add(account)
        return results

    def _settle_all(self, orders: Sequence[OrderView], wait: bool) -> list[OrderView | Exception]:
        """Ask billing, which pays for an order once; then record how the orders ended, with the events that say so."""
        outcomes = self.billing.pay_all(payments=[payment_for(order) for order in orders], wait=wait)
        if len(outcomes) != len(orders):
            raise RpcFailed(f"billing returned {len(outcomes)} outcomes for {len(orders)} payments")
        results = [read_outcome(order, outcome) for order, outcome in zip(orders, outcomes, strict=True)]
        recorded = iter(self._end_and_tell([result for result in results if isinstance(result, OrderView)]))
        return [next(recorded) if isinstance(result, OrderView) else result for result in results]

    def _end_and_tell(self, orders: Sequence[OrderView]) -> list[OrderView]:
        recorded = self._end(orders)
        self.outbox.publish_soon(chain.from_iterable(one.events for one in recorded))
        return [one.order for one in recorded]

    def _refuse(self, order: OrderView) -> OrderView:
        """Refuse an order whose user does not exist. If the user does, the account is on its way, and the order waits.

        Only the users service creates user ids, so an id that it does not know now will never be one.
        """
        if self.users.known_users(user_ids=[str(order.user_id)]):
            raise NoAccount()
        result = read_outcome(order, self.billing.refuse(**payment_for(order)))
        if isinstance(result, Exception):
            raise result
        return self._end_and_tell([result])[0]

    def _settle_due(self, orders: Sequence[OrderView]) -> Sequence[OrderView | Exception]:
        results: list[OrderView | Exception] = self._settle_together.many(orders)
        missing = [index for index, result in enumerate(results) if isinstance(result, NoAccount)]
        for index, refused in zip(missing, one_by_one([orders[index] for index in missing], self._refuse), strict=True):
            results[index] = refused
        return results
