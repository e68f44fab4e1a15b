"""Billing: the accounts and the ledger. Money moves here and nowhere else.

Owns      the tables `accounts`, `operations` and `waiting_payments`, its outbox and inbox
HTTP      GET /billing/accounts/{user_id}, .../operations and .../operations/{operation_id};
          POST .../deposit and .../withdraw
broker    serves open_accounts, pay_all, refuse; open_account, pay, get_account for those who call by hand
http      opens accounts, pays for orders, refuses to pay for them, each by a PUT
events    hears user_registered and order_placed; tells account_opened, payment_accepted and payment_refused
"""
