package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v4"
	amqp "github.com/rabbitmq/amqp091-go"
)

const patience = 5 * time.Second

type object map[string]interface{}

var errInvalid = errors.New("invalid")

// How each role serves; it opens the channels that it needs.
var serve = map[string]func(channel func() *amqp.Channel){
	"orders":        serveOrders,
	"billing":       serveBilling,
	"notifications": serveNotifications,
}

func serveOrders(channel func() *amqp.Channel) {
	out := channel()
	must(out.ExchangeDeclare(events, "topic", true, false, false, false, nil))
	publisher, billing := newPublisher(out), newCaller(channel())
	handle("/orders", http.MethodPost, func(r *http.Request) (int, interface{}, error) {
		var order struct {
			UserID *uuid.UUID `json:"user_id"`
			Price  int64      `json:"price"`
		}
		if json.NewDecoder(r.Body).Decode(&order) != nil || order.UserID == nil || order.Price <= 0 {
			return 0, nil, errInvalid
		}
		ctx, cancel := context.WithTimeout(background, 2*patience)
		defer cancel()
		id, happened := uuid.New(), event{EventID: uuid.New(), UserID: *order.UserID}
		happened.OrderID = id
		if _, err := db.Exec(ctx, place, id, order.UserID, order.Price); err != nil {
			return 0, nil, err
		}
		asking, stop := context.WithTimeout(ctx, patience)
		defer stop()
		outcome, err := billing.withdraw(asking, id, *order.UserID, order.Price)
		if err != nil {
			return 0, nil, err
		}
		happened.Kind = outcome
		body, _ := json.Marshal(happened)
		if _, err = db.Exec(ctx, finish, id, outcome, happened.EventID, "order."+outcome, body); err != nil {
			return 0, nil, err
		}
		if err = publisher.publish(ctx, happened.EventID.String(), "order."+outcome, body); err != nil {
			return 0, nil, err
		}
		if _, err = db.Exec(ctx, mark, happened.EventID); err != nil {
			return 0, nil, err
		}
		return http.StatusCreated, object{"id": id, "status": outcome}, nil
	})
}

func serveBilling(channel func() *amqp.Channel) {
	in := channel()
	_, err := in.QueueDeclare(billingQueue, true, false, false, false, nil)
	must(err)
	consume(in, billingQueue, func(message amqp.Delivery) error {
		var w withdrawal
		var a answer
		if err := json.Unmarshal(message.Body, &w); err != nil {
			return err
		}
		if err := db.QueryRow(background, withdraw, w.OperationID, w.UserID, w.Amount).Scan(&a.Outcome); err != nil {
			return err
		}
		body, _ := json.Marshal(a)
		return in.PublishWithContext(background, "", message.ReplyTo, false, false, // before the ack, on its channel
			amqp.Publishing{CorrelationId: message.CorrelationId, Body: body})
	})
	handle("/billing/accounts/", http.MethodPost, func(r *http.Request) (int, interface{}, error) {
		path := strings.Split(strings.TrimPrefix(r.URL.Path, "/billing/accounts/"), "/")
		user, err := uuid.Parse(path[0])
		switch {
		case len(path) > 2 || len(path) == 2 && path[1] != "deposit":
			return 0, nil, pgx.ErrNoRows
		case err != nil:
			return 0, nil, errInvalid
		case len(path) == 1:
			_, err = db.Exec(r.Context(), open, user)
			return http.StatusCreated, object{"balance": 0}, err
		}
		var money struct{ Amount int64 }
		if json.NewDecoder(r.Body).Decode(&money) != nil || money.Amount <= 0 {
			return 0, nil, errInvalid
		}
		var balance int64
		err = db.QueryRow(r.Context(), deposit, user, money.Amount).Scan(&balance)
		return http.StatusOK, object{"balance": balance}, err
	})
}

func serveNotifications(channel func() *amqp.Channel) {
	in := channel()
	must(in.ExchangeDeclare(events, "topic", true, false, false, false, nil))
	_, err := in.QueueDeclare(lettersQueue, true, false, false, false, nil)
	must(err)
	must(in.QueueBind(lettersQueue, "order.*", events, false, nil))
	consume(in, lettersQueue, func(message amqp.Delivery) error {
		var e event
		if err := json.Unmarshal(message.Body, &e); err != nil {
			return err
		}
		_, err := db.Exec(background, send, e.EventID, e.UserID, e.OrderID, e.Kind)
		return err
	})
	handle("/notifications", http.MethodGet, func(r *http.Request) (int, interface{}, error) {
		user, err := uuid.Parse(r.URL.Query().Get("user_id"))
		if err != nil {
			return 0, nil, errInvalid
		}
		rows, err := db.Query(r.Context(), letters, user)
		if err != nil {
			return 0, nil, err
		}
		defer rows.Close()
		found := []object{}
		for rows.Next() {
			var order, kind string
			if err := rows.Scan(&order, &kind); err != nil {
				return 0, nil, err
			}
			found = append(found, object{"order_id": order, "kind": kind})
		}
		return http.StatusOK, found, rows.Err()
	})
}

// handle answers requests with the status and the JSON that `f` gives.
func handle(path, method string, f func(*http.Request) (int, interface{}, error)) {
	http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		status, answer, err := http.StatusMethodNotAllowed, interface{}(object{"detail": "Method Not Allowed"}), error(nil)
		if r.Method == method {
			status, answer, err = f(r)
		}
		switch {
		case errors.Is(err, errInvalid):
			status, answer = http.StatusUnprocessableEntity, object{"detail": err.Error()}
		case errors.Is(err, pgx.ErrNoRows):
			status, answer = http.StatusNotFound, object{"detail": "Not Found"}
		case err != nil:
			log.Print(err)
			status, answer = http.StatusInternalServerError, object{"detail": err.Error()}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(answer)
	})
}
