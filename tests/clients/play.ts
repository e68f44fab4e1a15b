// The eight steps of services/scenario.py, played by a client that was generated from docs/openapi.json.
// Each step prints its title once it holds: node play.js http://127.0.0.1:8000

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type User = components["schemas"]["User"];
type Order = components["schemas"]["Order"];
type Letter = components["schemas"]["Letter"];
type Problem = components["schemas"]["Problem"];

const END_MS = 20_000;
const WAIT = { Prefer: "wait=3" };

const client = createClient<paths>({ baseUrl: process.argv[2] });
const keyed = () => ({ "Idempotency-Key": randomUUID() });
const holds = (title: string) => console.log(title);

/** Return what a request was answered, unless that is a problem. */
function good<Good>(answer: { data?: Good; error?: Problem }): Good {
  assert.equal(answer.error, undefined);
  assert(answer.data !== undefined);
  return answer.data;
}

async function createUser(): Promise<User> {
  const body = { name: "Ada", email: `ada-${randomUUID()}@example.com` };
  let user: User = good(await client.POST("/users", { params: { header: { ...keyed(), ...WAIT } }, body }));
  const deadline = Date.now() + END_MS;
  while (user.status === "pending" && Date.now() < deadline) {
    const params = { path: { user_id: user.id }, header: WAIT };
    user = good(await client.GET("/users/{user_id}", { params }));
  }
  assert.deepEqual([user.status, user.email], ["active", body.email]);
  return user;
}

/** Place an order and return it as it ends; the server waits, and what is pending all the same is asked for. */
async function place(user: User, price: number): Promise<Order> {
  const body = { user_id: user.id, price };
  const answer = await client.POST("/orders", { params: { header: { ...keyed(), ...WAIT } }, body });
  let order: Order = good(answer);
  assert.equal(answer.response.status === 202, order.status === "pending");
  const deadline = Date.now() + END_MS;
  while (order.status === "pending" && Date.now() < deadline) {
    const params = { path: { order_id: order.id }, header: WAIT };
    order = good(await client.GET("/orders/{order_id}", { params }));
  }
  return order;
}

async function balanceIs(user: User, balance: number): Promise<void> {
  const params = { path: { user_id: user.id } };
  assert.equal(good(await client.GET("/billing/accounts/{user_id}", { params })).balance, balance);
}

/** Wait for the letter of the order, which comes after the order has ended. */
async function letterIs(user: User, order: Order, kind: Letter["kind"]): Promise<void> {
  const deadline = Date.now() + END_MS;
  let letters: Letter[] = [];
  while (letters.length === 0 && Date.now() < deadline) {
    const page = good(await client.GET("/notifications", { params: { query: { user_id: user.id } } }));
    letters = page.items.filter((one) => one.order_id === order.id && one.email === user.email);
    await pause(50);
  }
  assert.deepEqual(letters.map((one) => one.kind), [kind]);
}

/** See the same orders and money in the lists, and use what the steps do not. */
async function lookBack(user: User, orders: Order[]): Promise<void> {
  const listed = good(await client.GET("/orders", { params: { query: { user_id: user.id, limit: 2 } } }));
  assert.deepEqual(listed, { items: orders, next: null });
  const path = { user_id: user.id };
  const withdrawal = { params: { path, header: keyed() }, body: { amount: 700 } };
  assert.equal(good(await client.POST("/billing/accounts/{user_id}/withdraw", withdrawal)).balance, 0);
  const lines = good(await client.GET("/billing/accounts/{user_id}/operations", { params: { path } }));
  assert.deepEqual(lines.items.map((one) => one.kind), ["withdrawal", "payment", "deposit"]);
  const body = { subject: "Hello", body: "Good to see you.", user_id: user.id };
  const letter: Letter = good(await client.POST("/notifications", { params: { header: keyed() }, body }));
  assert.deepEqual([letter.kind, letter.order_id], ["message", null]);
}

/** See that errors are typed too, and that a request without what is required is none. */
async function beRefused(user: User): Promise<void> {
  const path = { user_id: user.id };
  const refused = await client.POST("/billing/accounts/{user_id}/withdraw", { params: { path }, body: { amount: 1 } });
  const problem: Problem | undefined = refused.error;
  assert.equal(problem?.status, 402);
  assert(problem?.type.endsWith(":insufficient-funds"));
  // @ts-expect-error: a message needs a subject and a body
  const empty = await client.POST("/notifications", { body: { user_id: user.id } });
  assert.deepEqual(empty.error?.errors?.map((one) => one.field), ["subject", "body"]);
  // @ts-expect-error: there is no such reason
  const accepted: Order["reason"] = "accepted";
  assert(accepted);
}

const user = await createUser();
await balanceIs(user, 0);
holds("Create a user; billing opens an account");
const deposit = { params: { path: { user_id: user.id }, header: keyed() }, body: { amount: 1000 } };
assert.equal(good(await client.POST("/billing/accounts/{user_id}/deposit", deposit)).balance, 1000);
await balanceIs(user, 1000);
holds("Deposit money");
const paid = await place(user, 300);
assert.deepEqual([paid.status, paid.reason], ["paid", null]);
holds("Place an order that the account can pay");
await balanceIs(user, 700);
holds("See that the money was taken");
await letterIs(user, paid, "order_paid");
holds("See the letter of happiness");
const rejected = await place(user, 701);
assert.deepEqual([rejected.status, rejected.reason], ["rejected", "insufficient_funds"]);
holds("Place an order that the account cannot pay");
await balanceIs(user, 700);
holds("See that the balance has not changed");
await letterIs(user, rejected, "order_rejected");
holds("See the letter of grief");
await lookBack(user, [rejected, paid]);
await beRefused(user);
