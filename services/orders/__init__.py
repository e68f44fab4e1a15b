"""Orders: what users buy, from pending to paid or rejected.

Owns      the table `orders`, its outbox and inbox
HTTP      POST /orders, GET /orders/{id}, GET /orders
broker    calls billing.pay_all until it answers, users.known_users and billing.refuse for an order without an account;
          tells order_paid and order_rejected
http      asks billing to pay, and notifications for the letter; users and billing for an order without an account
events    tells order_placed; hears payment_accepted and payment_refused
"""
