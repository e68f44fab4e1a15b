"""Notifications: letters, stored rather than sent, and the addresses that they go to.

Owns        the tables `letters`, `contacts` and `inbox`
HTTP        POST /notifications, GET /notifications
Calls       nobody
Events out  none
Events in   user_registered, order_paid, order_rejected
"""
