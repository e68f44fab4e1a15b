"""Billing: the accounts and the ledger. Money moves here and nowhere else.

Owns        the tables `accounts` and `operations`
HTTP        GET /billing/accounts/{user_id} and .../operations, POST .../deposit and .../withdraw
Serves      open_accounts, pay_all, refuse by RPC; open_account, pay, get_account for those who call by hand
Events      none
"""
