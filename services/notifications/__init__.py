"""Notifications: letters, stored rather than sent, and the addresses that they go to.

Owns      the tables `letters` and `contacts`, and its inbox
HTTP      POST /notifications, GET /notifications/{id}, GET /notifications, GET /events
broker    hears user_registered, order_paid, order_rejected, and what the style events has left: payment_accepted,
          payment_refused
http      stores letters and addresses, each by a PUT
events    hears user_registered, payment_accepted, payment_refused, and what the style broker has left: order_paid,
          order_rejected
"""
