"""Users and their e-mail addresses.

Owns      the tables `users` and `refused_users`, its outbox and inbox
HTTP      POST /users, GET /users/{id}, GET /users
broker    calls billing.open_accounts until it answers; serves known_users; tells user_registered
http      asks billing for an account, and has notifications keep the address; says whether it knows a user
events    tells user_registered; hears account_opened
"""
