#!/bin/sh
# Prints what RabbitMQ shall know before the first client comes: a virtual host, a user for each service, and an
# administrator for people. RabbitMQ reads it at each start, so a new password holds after a restart.
# Environment: ADMIN_PASSWORD, and <SERVICE>_PASSWORD for each service.
set -eu

VHOST=nameko-hw
separator=

# Three regular expressions of the exchanges and queues that a user may declare, write to and read from.
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

caller() { # NAME: calls by RPC and gets replies in queues of its own; publishes its events
  user "$1" '' \
    "^(nameko-rpc|$1[.]events|rpc[.]reply-$1-.*)$" \
    "^(nameko-rpc|$1[.]events|rpc[.]reply-$1-.*)$" \
    "^(nameko-rpc|rpc[.]reply-$1-.*)$"
}

rpc_server() { # NAME: takes requests from its queue and replies
  user "$1" '' "^(nameko-rpc|rpc-$1)$" "^(nameko-rpc|rpc-$1)$" "^(nameko-rpc|rpc-$1)$"
}

event_handler() { # NAME SOURCES: binds its queues to the exchanges of the sources; puts aside what failed
  queues="evt-($2)-.*--$1[.].*"
  user "$1" '' "^(($2)[.]events|$queues)$" "^(amq[.]default|$queues)$" "^(($2)[.]events|$queues)$"
}

caller users
caller orders
rpc_server billing
event_handler notifications 'users|orders'
user admin '"administrator"' '.*' '.*' '.*'

cat <<JSON
{"vhosts": [{"name": "$VHOST"}], "users": [$users], "permissions": [$permissions]}
JSON
