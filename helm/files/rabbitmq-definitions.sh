#!/bin/sh
# Prints what RabbitMQ shall know before the first client comes: a virtual host, a user for each service, and an
# administrator for people. RabbitMQ reads it at each start, so a new password holds after a restart.
# Environment: ADMIN_PASSWORD, and <SERVICE>_PASSWORD for each service.
set -eu

VHOST=nameko-hw
separator=

REPLY='[0-9a-f-]{36}'  # the routing key of a reply: the UUID of its caller's queue

# Three regular expressions of the exchanges and queues that a user may declare, write to and read from. To bind a queue
# is to write to it and to read from the exchange. Nobody may write to the default exchange, which reaches every queue.
user() { # NAME TAGS CONFIGURE WRITE READ
  password=$(printenv "$(printf %s "$1" | tr a-z A-Z)_PASSWORD")
  case $password in
    *[!A-Za-z0-9._~-]*) echo "$1: a password here may hold only letters, digits and . _ ~ -" >&2 && exit 1 ;;
  esac
  users="${users-}$separator{\"name\": \"$1\", \"password\": \"$password\", \"tags\": [$2]}"
  permissions="${permissions-}$separator{\"user\": \"$1\", \"vhost\": \"$VHOST\", \
\"configure\": \"$3\", \"write\": \"$4\", \"read\": \"$5\"}"
  separator=,
}

# Two regular expressions of the routing keys that a user may publish to an exchange, and bind its queues by.
keys() { # NAME EXCHANGE PUBLISH BIND
  topics="${topics-}${topics+,}{\"user\": \"$1\", \"vhost\": \"$VHOST\", \"exchange\": \"$2\", \
\"write\": \"$3\", \"read\": \"$4\"}"
}

# What holds in both styles with a broker: `broker` and `events`.

# users: publishes its events, calls billing, serves requests, and handles the events of billing.
queues='rpc-users|rpc[.]reply-users-.*|evt-billing-account_opened--users[.].*'
user users '' "^(nameko-rpc|(users|billing)[.]events|$queues)\$" "^(nameko-rpc|users[.]events|$queues)\$" \
  "^(nameko-rpc|billing[.]events|$queues)\$"
keys users nameko-rpc "^(billing[.](open_account|open_accounts)|$REPLY)\$" "^(users[.][*]|$REPLY)\$"
keys users users.events '^user_registered$' ''
keys users billing.events '' '^account_opened$'

# orders: publishes its events, calls billing and users, and handles the events of billing.
queues='rpc[.]reply-orders-.*|evt-billing-payment_(accepted|refused)--orders[.].*'
user orders '' "^(nameko-rpc|(orders|billing)[.]events|$queues)\$" "^(nameko-rpc|orders[.]events|$queues)\$" \
  "^(nameko-rpc|billing[.]events|$queues)\$"
keys orders nameko-rpc '^(billing[.](pay_all|pay|refuse)|users[.]known_users)$' "^$REPLY\$"
keys orders orders.events '^order_(placed|paid|rejected)$' ''
keys orders billing.events '' '^payment_(accepted|refused)$'

# billing: serves requests, publishes its events, and handles those of users and orders.
queues='rpc-billing|evt-users-user_registered--billing[.].*|evt-orders-order_placed--billing[.].*'
user billing '' "^(nameko-rpc|(users|orders|billing)[.]events|$queues)\$" "^(nameko-rpc|billing[.]events|$queues)\$" \
  "^(nameko-rpc|(users|orders)[.]events|$queues)\$"
keys billing nameko-rpc "^$REPLY\$" '^billing[.][*]$'
keys billing billing.events '^(account_opened|payment_(accepted|refused))$' ''
keys billing users.events '' '^user_registered$'
keys billing orders.events '' '^order_placed$'

# notifications: handles the events of all others, and publishes nothing.
queues='evt-(users|orders|billing)-.*--notifications[.].*'
user notifications '' "^((users|orders|billing)[.]events|$queues)\$" "^$queues\$" "^((users|orders|billing)[.]events|$queues)\$"

user admin '"administrator"' '.*' '.*' '.*'

cat <<JSON
{"vhosts": [{"name": "$VHOST"}], "users": [$users], "permissions": [$permissions], "topic_permissions": [$topics]}
JSON
