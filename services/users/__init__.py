"""Users: who they are and their e-mail addresses.

Owns        the table `users`, and its outbox
HTTP        POST /users, GET /users/{id}
Calls       billing.open_account, until it has answered
Events out  user_registered
Events in   none
"""
