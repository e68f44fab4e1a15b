"""Orders: what users buy, from pending to paid or rejected.

Owns        the table `orders`, and its outbox
HTTP        POST /orders, GET /orders/{id}, GET /orders
Calls       billing.pay_all, until it answers; users.known_users and billing.refuse for an order without an account
Events out  order_paid, order_rejected
Events in   none
"""
