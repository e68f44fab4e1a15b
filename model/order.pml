/*
 * The protocol of an order, for the model checker SPIN. docs/model.md explains it; `make model` runs it.
 *
 * Each `proctype` is a part of the system that goes on by itself. In `if` and `do`, every line that begins with `::` is
 * something that may happen next, if its first condition holds; SPIN tries all of them, and all orders in which the
 * parts can take their steps. A step is what is in one `atomic` or `d_step`. It is as long as nobody else can see what is in
 * between; `fault` cuts it short there, which uses up one of the FAULTS that may happen in all: a crash, a connection
 * that is cut before an answer came, an answer that comes too late. At `end` a part has nothing to do.
 */
#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef CLIENTS
#define CLIENTS 2    /* who order: client 0 gives an Idempotency-Key and sends its request again, client 1 does not */
#endif
#define ORDERS 2     /* at most, of price 1 and of one account */
#define REPLICAS 2   /* of orders */

/* The safeguards, and where they are in the code. `-DWITHOUT=INBOX` takes that one out. */
#define KEY        1 /* orders.idempotency_key is unique: CLAIM in orders/store.py */
#define ID         2 /* the id of an order is the request's, so that storing it again finds it: CLAIM */
#define OPERATION  3 /* the id of an operation is unique, and its outcome is kept: MOVE in billing/store.py */
#define REFUSAL    4 /* ... a refusal's too */
#define BALANCE    5 /* a payment is accepted only if the account holds enough: MOVE */
#define USERS      6 /* users is asked before an order without an account is refused: _refuse in orders/service.py */
#define PROMISE    7 /* an order that was answered 202 is marked, and stays visible: PROMISE in orders/store.py */
#define GUARD      8 /* only an order that is pending ends: END in orders/store.py */
#define OUTBOX     9 /* status and event are one statement: END, a StatementWithEvents */
#define RECOVERY  10 /* pending orders are settled without being asked: recover in orders/service.py */
#define LEFT_OVER 11 /* the relay leases the events that no relay holds any more: LEASE in kit/outbox/statements.py */
#define CONFIRM   12 /* an event is marked as published after its confirm: _wait_for_confirms in kit/outbox/relay.py */
#define INBOX     13 /* letters.event_id is unique: ADD_LETTERS in notifications/store.py */
#define TABLE     14 /* an event that failed is a row of the inbox before it is acknowledged: kit/amqp/events.py */
#ifndef WITHOUT
#define WITHOUT    0
#endif
#define with(safeguard) (WITHOUT != safeguard)

mtype:state   = { absent, pending, paid, rejected, not_found };    /* an order; also what an event and a letter tell */
mtype:outcome = { undecided, accepted, no_money, no_account,       /* of a payment, as billing records it, */
                  missing, busy };                                 /* and two that it answers and does not record */
mtype:request = { nothing, pay, refuse };
mtype:row     = { unwritten, written, published };                 /* an event in the outbox */

/* In databases: orders, billing and users, notifications. */
mtype:state   status[ORDERS] = absent, tells[ORDERS] = absent;
mtype:row     outbox[ORDERS] = unwritten;
bit           promised[ORDERS], had_user[ORDERS];                  /* had_user: the user existed when it was stored */
mtype:outcome operation[ORDERS] = undecided;
bit           taken[ORDERS], user_exists, account_exists;
byte          balance;
mtype:state   letter[ORDERS] = absent;
bit           inbox[ORDERS];
/* In memory, and on the way. */
byte          faults = FAULTS;
bit           arrives[ORDERS], told_202[ORDERS];                   /* a request of a client; what it was answered */
byte          at[REPLICAS];                                        /* the order that a replica works on, */
mtype:request asks[REPLICAS] = nothing;                            /* what it asks of billing, */
mtype:outcome reply[REPLICAS] = undecided;                         /* and the reply */
bit           late_pay[ORDERS], late_refuse[ORDERS];               /* requests that nobody waits for any more */
bit           held[REPLICAS * ORDERS];                             /* events in the memory of the replicas' relays */
byte          queue[ORDERS];                                       /* copies of an event for notifications */

#define fault     faults > 0 -> faults--
#define me        _pid
#define mine      at[_pid]
#define have(o)   held[me * ORDERS + (o)]

/* While both replicas do nothing they are alike, and it is enough to try what replica 0 would do. */
#define my_turn   (me == 0 || asks[0] != nothing || reply[0] != undecided || held[0] || held[1] || held[2] || held[3])

inline choose(o, first, second) { if :: first -> o = 0 :: second -> o = 1 fi }

/* create_order, _settle and recover of orders/service.py. */
inline rest() { for_client = 0; said = undecided; mine = 0 }
inline stop_waiting() {              /* the request may still arrive: late, or so late that it changes nothing */
    if :: asks[me] == pay -> late_pay[mine] = 1 :: asks[me] == refuse -> late_refuse[mine] = 1 :: else fi;
    asks[me] = nothing; reply[me] = undecided
}
inline die() { stop_waiting(); have(0) = 0; have(1) = 0; printf("FAULT: replica %d of orders dies\n", me); rest() }
inline ask() { asks[me] = pay; printf("replica %d asks billing for the payment of order %d\n", me, mine) }

active [REPLICAS] proctype Orders() {
    bit for_client; mtype:outcome said = undecided;
end:
    if
    :: atomic { my_turn && (arrives[0] || arrives[1]) -> choose(mine, arrives[0], arrives[1]); arrives[mine] = 0; for_client = 1;
        if
        :: status[mine] == absent || (mine == 0 && !with(KEY)) ->
            printf("replica %d stores order %d as pending\n", me, mine);
            assert(status[mine] == absent);                        /* one request makes one order */
            status[mine] = pending; had_user[mine] = user_exists
        :: else -> printf("replica %d finds order %d under its key\n", me, mine)
        fi;
        if
        :: status[mine] == pending -> ask()
        :: status[mine] != pending -> rest(); goto end             /* 201 or 404, as it is stored */
        :: fault; die(); goto end
        :: fault; printf("FAULT: the answer of the database to replica %d gets lost\n", me);
           if
           :: printf("replica %d answers 503\n", me); rest(); goto end
           :: printf("replica %d stores it again\n", me);
              assert(with(ID) || mine == 0);                       /* one request makes one order */
              ask()
           fi
        fi }
    :: atomic { my_turn && with(RECOVERY) && (status[0] == pending || status[1] == pending) && (account_exists || !user_exists) ->
        choose(mine, status[0] == pending, status[1] == pending);
        printf("recovery of replica %d takes order %d, which is pending\n", me, mine); ask() }
    :: atomic { faults > 0 && (have(0) || have(1)) -> faults--; die(); goto end }
    fi;
wait:
    if
    :: atomic { reply[me] != undecided -> said = reply[me]; reply[me] = undecided;
        if
        :: said == busy -> goto unknown
        :: said == missing && with(USERS) && user_exists ->
            printf("replica %d hears from users that the account is on its way\n", me); goto unknown
        :: said == missing && !(with(USERS) && user_exists) -> said = undecided; asks[me] = refuse;
            printf("replica %d asks billing to refuse order %d, which has no account\n", me, mine); goto wait
        :: else
        fi;
        if
        :: status[mine] != pending && with(GUARD) -> printf("replica %d finds that order %d has ended\n", me, mine)
        :: else -> assert(status[mine] == pending);                /* an order ends once */
            if :: said == accepted -> status[mine] = paid :: said == no_money -> status[mine] = rejected
               :: else -> status[mine] = not_found; assert(!had_user[mine]) fi;  /* no order of a user is refused as nobody's */
            printf("replica %d records order %d as %e\n", me, mine, status[mine]);
            had_user[mine] = 0; if :: said != no_account -> told_202[mine] = 0; promised[mine] = 0 :: else fi;  /* settled */
            if :: !with(OUTBOX) && said != no_account -> if :: fault; die(); goto end :: skip fi :: else fi;
            if :: said != no_account -> outbox[mine] = written; tells[mine] = status[mine]; have(mine) = 1;
                printf("replica %d has written its event into the outbox\n", me) :: else fi;
            if
            :: skip
            :: fault; die(); goto end
            :: fault; have(mine) = 0; printf("FAULT: the answer of the database to replica %d gets lost\n", me);
               goto unknown
            fi
        fi;
        assert(status[mine] == (said == accepted -> paid : (said == no_money -> rejected : not_found)));  /* all answers agree */
        rest(); goto end }                                         /* 201 or 404 */
    :: atomic { fault; stop_waiting(); printf("FAULT: replica %d hears nothing in time\n", me); goto unknown }
    :: atomic { fault; die(); goto end }
    fi;
unknown:
    atomic { if :: for_client && status[mine] == pending -> told_202[mine] = 1; promised[mine] = with(PROMISE);
                printf("replica %d answers 202 for order %d\n", me, mine) :: else fi;
        rest(); goto end }
}

/* pay_all and refuse of billing/service.py: each request is one statement. One that is not acknowledged comes again. */
inline decide(o, what) {
    if
    :: operation[o] != undecided && with(OPERATION) -> outcome = operation[o]
    :: else -> if
        :: what == refuse -> outcome = no_account; operation[o] = outcome
        :: what == pay && !account_exists -> outcome = missing
        :: what == pay && account_exists && (balance >= 1 || !with(BALANCE)) ->
            assert(balance >= 1);                                  /* a balance is never below zero */
            assert(!taken[o]);                                     /* money is taken once */
            outcome = accepted; operation[o] = outcome; taken[o] = 1; balance--
        :: else -> outcome = no_money; if :: with(REFUSAL) -> operation[o] = outcome :: else fi
        fi
    fi;
    if :: operation[o] != undecided && with(OPERATION) -> late_pay[o] = 0; late_refuse[o] = 0 :: else fi;  /* now in vain */
    if :: what == pay -> printf("billing is asked to pay order %d: %e\n", o, outcome)
       :: else -> printf("billing is asked to refuse order %d: %e\n", o, outcome) fi
}

active proctype Billing() {
    byte r; mtype:outcome outcome = undecided;
end:
    do
    :: atomic { asks[0] != nothing || asks[1] != nothing -> choose(r, asks[0] != nothing, asks[1] != nothing);
        if
        :: fault; reply[r] = busy; asks[r] = nothing; printf("FAULT: the account is locked\n")
        :: true -> decide(at[r], asks[r]);
            if
            :: reply[r] = outcome
            :: fault; reply[r] = outcome;
               if :: asks[r] == pay -> late_pay[at[r]] = 1 :: else -> late_refuse[at[r]] = 1 fi;
               printf("FAULT: billing dies before it has acknowledged; the request comes again\n")
            fi;
            asks[r] = nothing
        fi; r = 0; outcome = undecided }
    :: d_step { late_pay[0] -> late_pay[0] = 0; decide(0, pay); outcome = undecided }
    :: d_step { late_pay[1] -> late_pay[1] = 0; decide(1, pay); outcome = undecided }
    :: d_step { late_refuse[0] -> late_refuse[0] = 0; decide(0, refuse); outcome = undecided }
    :: d_step { late_refuse[1] -> late_refuse[1] = 0; decide(1, refuse); outcome = undecided }
    od
}

/* kit/outbox/relay.py, one for each replica and event; with the broker. */
#define place   (_pid - REPLICAS - 1)
#define event   (place % ORDERS)
#define replica (place / ORDERS)
#define other   ((place + ORDERS) % (ORDERS * REPLICAS))

active [REPLICAS * ORDERS] proctype Relay() {
end:
    do
    :: atomic { held[place] -> held[place] = 0; printf("replica %d publishes the event of order %d\n", replica, event);
        if
        :: queue[event]++; outbox[event] = published; printf("the broker confirms it, replica %d marks it\n", replica)
        :: fault; queue[event]++; printf("FAULT: replica %d dies or hears no confirm\n", replica)
        :: fault;
           if :: !with(CONFIRM) -> outbox[event] = published; printf("replica %d marks it\n", replica) :: else fi;
           printf("FAULT: the broker dies before it has confirmed it, and loses it\n")
        fi }
    :: atomic { with(LEFT_OVER) && outbox[event] == written && !held[place] && (!held[other] || faults > 0) ->
        if :: held[other] -> faults--; printf("FAULT: replica %d is slow, and its lease ends\n", 1 - replica) :: else fi;
        held[place] = 1; printf("replica %d takes a lease on the event of order %d\n", replica, event) }
    od
}

/* on_order_paid and on_order_rejected of notifications/service.py, and the timer of its inbox. */
inline add_letter(o) {
    if
    :: letter[o] != absent && with(INBOX) -> printf("notifications has the letter of order %d\n", o)
    :: else -> printf("notifications stores the letter of order %d: %e\n", o, tells[o]);
        assert(letter[o] == absent);                               /* one letter for an order */
        letter[o] = tells[o]
    fi
}
#define this (_pid - REPLICAS - REPLICAS * ORDERS - 1)

active [ORDERS] proctype Notifications() {
end:
    do
    :: atomic { queue[this] > 0 ->
        if
        :: true -> add_letter(this)
        :: fault; printf("FAULT: the handler of the event of order %d fails\n", this);
            if
            :: !with(TABLE) -> if :: fault; queue[this]--; goto lost :: skip fi
            :: else
            fi;
            inbox[this] = 1; printf("notifications puts it into its inbox table\n")
        fi;
        if
        :: queue[this]--; printf("notifications acknowledges it\n")
        :: fault; printf("FAULT: notifications or the broker dies before it is acknowledged; it comes again\n")
        fi }
    :: atomic { inbox[this] -> printf("the timer takes the event of order %d from the inbox\n", this); add_letter(this);
        if :: inbox[this] = 0 :: fault; printf("FAULT: notifications dies before the row is removed\n") fi }
    od;
lost:
    atomic { printf("FAULT: notifications has acknowledged it, and dies before it is in the inbox table\n"); goto end }
}

/* The world. What it does when all else is done changes nothing, so that it may as well never do it. */
active proctype Users() {
    d_step { user_exists = 1; printf("the user is created\n") };
    d_step { account_exists = 1; balance = 1; printf("the account is opened, and holds the price of one order\n") };
    d_step { balance++; printf("a deposit of the price of one more order\n") }
}
active proctype Client() {
    d_step { arrives[0] = 1; arrives[1] = (CLIENTS == 2) };
    d_step { !arrives[0] -> arrives[0] = 1; printf("client 0 sends its request again, under its key\n") }
}

/* When nothing else can happen any more, this must be so. */
active proctype Settled() {
    byte o;
    timeout -> d_step { printf("nothing is left to do\n");
    do
    :: o < CLIENTS ->
        assert(status[o] == paid || status[o] == rejected || status[o] == not_found);  /* every order ends */
        assert((status[o] == paid) == taken[o]);                   /* paid, and only paid, if the money was taken */
        assert(letter[o] == (status[o] == not_found -> absent : status[o]));  /* the letter says how the order ended */
        assert(status[o] != not_found || !told_202[o] || promised[o]);  /* an order answered 202 stays visible */
        assert(queue[o] == 0 && !inbox[o]);                        /* no event waits */
        assert(outbox[o] == (status[o] == not_found -> unwritten : published));  /* no event is forgotten */
        o++
    :: else -> break
    od;
    assert(balance + taken[0] + taken[1] == 2) }                   /* no money is lost or made */
}
