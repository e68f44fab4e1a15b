"""Users and their e-mail addresses.

Owns        the tables `users` and `refused_users`, and its outbox
HTTP        POST /users, GET /users/{id}
Calls       billing.open_accounts, until it answers
Serves      known_users by RPC
Events out  user_registered
Events in   none
"""
