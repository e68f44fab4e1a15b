package main

// Tables, by role.
var schema = map[string]string{
	"orders": `
		create table if not exists orders(id uuid primary key, user_id uuid not null, price bigint not null,
			status text not null, created_at timestamptz not null default now());
		create table if not exists outbox(id uuid primary key, topic text not null, body jsonb not null,
			published_at timestamptz);`,
	"billing": `
		create table if not exists accounts(user_id uuid primary key, balance bigint not null check (balance >= 0));
		create table if not exists entries(operation_id uuid primary key, user_id uuid not null,
			amount bigint not null, outcome text not null, created_at timestamptz not null default now());`,
	"notifications": `
		create table if not exists letters(event_id uuid primary key, user_id uuid not null, order_id uuid not null,
			kind text not null, created_at timestamptz not null default now());
		create index if not exists letters_user on letters(user_id, created_at);`,
}

// Each is prepared once on a connection, and is a transaction by itself.
const (
	place  = `insert into orders(id, user_id, price, status) values ($1, $2, $3, 'pending')`
	finish = `with done as (update orders set status = $2 where id = $1)
		insert into outbox(id, topic, body) values ($3, $4, $5)`
	mark     = `update outbox set published_at = now() where id = $1`
	withdraw = `
		with seen as (select outcome from entries where operation_id = $1),
		taken as (update accounts set balance = balance - $3 where user_id = $2 and balance >= $3
			and not exists (select from seen) returning user_id),
		noted as (insert into entries(operation_id, user_id, amount, outcome)
			select $1, $2, case when exists (select from taken) then -$3::bigint else 0 end,
				case when exists (select from taken) then 'paid' else 'rejected' end
			where not exists (select from seen) returning outcome)
		select outcome from seen union all select outcome from noted`
	open    = `insert into accounts values ($1, 0) on conflict do nothing`
	deposit = `update accounts set balance = balance + $2 where user_id = $1 returning balance`
	send    = `insert into letters(event_id, user_id, order_id, kind) values ($1, $2, $3, $4) on conflict do nothing`
	letters = `select order_id::text, kind from letters where user_id = $1 order by created_at limit 50`
)
